"""The client's store: what it gives is right or an error, and what nobody wants goes."""

import errno
import hashlib
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.content.client_store import ClientStore, Collected
from pcm.model.errors import RequestError, StoreError, TrustError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def add(store: ClientStore, content: bytes) -> str:
    store.add(sha(content), len(content), [content], "test")
    return sha(content)


@pytest.fixture
def store(tmp_path: Path) -> ClientStore:
    return ClientStore(tmp_path / "store", Clock())


def test_what_is_added_is_read_back(store: ClientStore) -> None:
    name = add(store, b"content")
    assert store.has(name, 7)
    assert not store.has(name, 8)
    assert b"".join(store.read(name, 7)) == b"content"
    assert (store.root / name[:2] / name).stat().st_mode & 0o777 == 0o600
    assert store.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("content", "code"), [(b"contenT", "trust.content"), (b"content!", "trust.endless_data"), (b"c", "trust.content")]
)
def test_wrong_bytes_are_not_kept_and_their_origin_is_named(store: ClientStore, content: bytes, code: str) -> None:
    with pytest.raises(TrustError, match=r"https://evil\.example") as caught:
        store.add(sha(b"content"), 7, [content], "https://evil.example")
    assert caught.value.code == code
    assert not store.has(sha(b"content"), 7)
    assert list(store.list()) == []


@pytest.mark.parametrize("damage", [b"contenT", b"", b"content and more"])
def test_damage_on_disk_is_found_and_the_file_removed(store: ClientStore, damage: bytes) -> None:
    name = add(store, b"content")
    (store.root / name[:2] / name).write_bytes(damage)
    with pytest.raises(StoreError) as caught:
        list(store.read(name, 7))
    assert caught.value.code == "store.damaged"
    assert not (store.root / name[:2] / name).exists()
    add(store, b"content")
    assert b"".join(store.read(name, 7)) == b"content"


def test_a_file_that_the_disk_cannot_give_any_more_is_removed_and_comes_again(
    store: ClientStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would count as there for ever, be the base of every patch, and no attempt would ever end well."""
    name = add(store, b"content")

    def broken(_file: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("pcm.content.client_store._read", broken)
        assert not store.is_intact(name, 7)
    assert not store.has(name, 7)
    add(store, b"content")
    assert store.is_intact(name, 7)


def test_a_link_in_the_place_of_a_file_is_not_followed(store: ClientStore, tmp_path: Path) -> None:
    name = add(store, b"content")
    outside = tmp_path / "outside"
    outside.write_bytes(b"content")
    (store.root / name[:2] / name).unlink()
    (store.root / name[:2] / name).symlink_to(outside)
    with pytest.raises(StoreError):
        list(store.read(name, 7))


def test_a_name_that_is_no_hash_never_becomes_a_path(store: ClientStore) -> None:
    with pytest.raises(RequestError):
        store.has("../../etc/shadow", 1)


def test_a_full_disk_is_said_so_and_leaves_nothing(store: ClientStore) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, limits[1]))  # what a disk with three bytes left would allow
    try:
        with pytest.raises(StoreError) as caught:
            add(store, b"content")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "store.disk_full"
    assert not any(path.is_file() for path in store.root.rglob("*"))


def test_the_least_recently_used_go_first_and_the_wanted_stay(store: ClientStore) -> None:
    old, wanted, used, new = (add(store, bytes([number]) * 100) for number in range(4))
    list(store.read(used, 100))
    assert store.collect({wanted}, 300) == Collected(1, 100, 3, 300, 0)
    assert {held.sha256 for held in store.list()} == {wanted, used, new}
    assert store.collect({wanted}, 100) == Collected(2, 200, 1, 100, 0)
    assert [held.sha256 for held in store.list()] == [wanted]
    assert store.collect({wanted}, 0).removed == 0
    assert old not in {held.sha256 for held in store.list()}


def test_leftovers_of_a_killed_service_are_collected(store: ClientStore) -> None:
    name = add(store, b"content")
    (store.root / name[:2] / ".incoming-00").write_bytes(b"half")
    assert store.collect({name}, 1000).leftovers == 1


@given(st.lists(st.binary(min_size=1, max_size=40), unique=True, max_size=8), st.integers(0, 200), st.data())
def test_collecting_keeps_the_wanted_and_the_budget(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], budget: int, data: st.DataObject
) -> None:
    store = ClientStore(tmp_path_factory.mktemp("store"), Clock())
    names = [add(store, content) for content in contents]
    wanted = set(data.draw(st.lists(st.sampled_from(names), unique=True))) if names else set()
    report = store.collect(wanted, budget)
    left = {held.sha256: held.length for held in store.list()}
    assert wanted <= set(left)
    assert sum(left.values()) <= budget or set(left) == wanted
    assert (report.kept, report.kept_bytes) == (len(left), sum(left.values()))
    assert report.removed == len(names) - len(left)


def test_free_space_is_that_of_the_disk(store: ClientStore) -> None:
    disk = os.statvfs(store.root)
    assert store.free_bytes() <= disk.f_blocks * disk.f_frsize
