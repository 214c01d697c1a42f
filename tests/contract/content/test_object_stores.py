"""One suite over every object store (today: the folder)."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.content.object_store import FolderObjectStore, verify_store
from pcm.content.objects import object_path, pack
from pcm.model.errors import RequestError, TrustError

PLAIN = os.urandom(200_000)
SHA = hashlib.sha256(PLAIN).hexdigest()
PACKED = b"".join(pack(io.BytesIO(PLAIN), len(PLAIN)))


@pytest.fixture(params=["folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FolderObjectStore:
    assert request.param == "folder"
    return FolderObjectStore(tmp_path)


def pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 5000):
        yield data[start : start + 5000]


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_what_is_put_is_there_whole(store: FolderObjectStore) -> None:
    assert not store.has(SHA)
    assert store.put(SHA, len(PLAIN), pieces(PACKED)) is True
    assert store.has(SHA)
    with store.open(SHA) as file:
        assert file.read() == PACKED
    assert files_in(store.root) == [object_path(SHA)]
    assert (store.root / object_path(SHA)).stat().st_mode & 0o777 == 0o644


def test_putting_again_reads_nothing(store: FolderObjectStore) -> None:
    store.put(SHA, len(PLAIN), pieces(PACKED))
    rest = pieces(PACKED)
    assert store.put(SHA, len(PLAIN), rest) is False
    assert next(rest) == PACKED[:5000]


def test_the_empty_file_is_an_object_too(store: FolderObjectStore) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    assert store.put(empty, 0, pack(io.BytesIO(b""), 0))
    assert store.has(empty)


@pytest.mark.parametrize(
    ("content", "length", "code"),
    [
        (PACKED[:-1], len(PLAIN), "trust.content"),
        (PACKED[:1000] + b"\0" + PACKED[1001:], len(PLAIN), "trust.content"),
        (PACKED + b"x", len(PLAIN), "trust.content"),
        (PACKED, len(PLAIN) - 1, "trust.endless_data"),
        (PACKED, len(PLAIN) + 1, "trust.content"),
        (PLAIN, len(PLAIN), "trust.content"),
        (b"", len(PLAIN), "trust.content"),
    ],
)
def test_what_is_not_the_object_is_never_seen(store: FolderObjectStore, content: bytes, length: int, code: str) -> None:
    with pytest.raises(TrustError) as caught:
        store.put(SHA, length, pieces(content))
    assert caught.value.code == code
    assert not store.has(SHA)
    assert files_in(store.root) == []


def _block(data: bytes, last: bool) -> bytes:
    return ((len(data) << 3) | last).to_bytes(3, "little") + data


_SMALL = b"hello"
_FRAME = b"\x28\xb5\x2f\xfd\x00\x00"


@pytest.mark.parametrize(
    "content",
    [
        _FRAME + _block(b"", False) * 1000 + _block(_SMALL, True),
        b"\x50\x2a\x4d\x18\xff\0\0\0" + b"a" * 255 + _FRAME + _block(_SMALL, True),
        b"\x28\xb5\x2f\xfd\x20\x02" + _block(b"he", True) + _FRAME + _block(b"llo", True),
    ],
    ids=["padded", "skippable frame first", "two frames, one length"],
)
def test_what_clients_would_refuse_cannot_take_the_files_place(store: FolderObjectStore, content: bytes) -> None:
    """It unpacks to the right bytes, but clients do not read it; and what is there is never replaced."""
    name = hashlib.sha256(_SMALL).hexdigest()
    with pytest.raises(TrustError):
        store.put(name, len(_SMALL), [content])
    assert not store.has(name)
    assert store.put(name, len(_SMALL), pack(io.BytesIO(_SMALL), len(_SMALL)))


def test_an_upload_that_breaks_off_leaves_nothing(store: FolderObjectStore) -> None:
    def broken() -> Iterator[bytes]:
        yield PACKED[:5000]
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        store.put(SHA, len(PLAIN), broken())
    assert files_in(store.root) == []


def test_nothing_is_visible_before_the_last_byte(store: FolderObjectStore) -> None:
    seen: list[bool] = []

    def watched() -> Iterator[bytes]:
        for piece in pieces(PACKED):
            seen.append(store.has(SHA))
            yield piece

    store.put(SHA, len(PLAIN), watched())
    assert seen
    assert not any(seen)


@pytest.mark.parametrize(
    "name", ["", "x", "../../etc/passwd", SHA.upper(), SHA + "/"], ids=["empty", "short", "path", "upper", "slash"]
)
def test_names_that_are_no_hash_are_refused(store: FolderObjectStore, name: str) -> None:
    for ask in (
        lambda: store.put(name, 1, [b""]),
        lambda: store.has(name),
        lambda: store.open(name),
        lambda: store.delete(name),
    ):
        with pytest.raises(RequestError) as caught:
            ask()
        assert caught.value.code == "request.object_name"


def test_list_delete_and_what_is_not_there(store: FolderObjectStore) -> None:
    store.put(SHA, len(PLAIN), pieces(PACKED))
    (store.root / "objects" / "stray").write_bytes(b"x")
    assert [(each.sha256, each.packed) for each in store.list()] == [(SHA, len(PACKED))]
    assert store.delete(SHA) is True
    assert store.delete(SHA) is False
    assert list(store.list()) == []
    with pytest.raises(RequestError) as caught:
        store.open(SHA)
    assert caught.value.code == "not_found"


def test_leftovers_of_killed_uploads_are_swept(store: FolderObjectStore) -> None:
    store.put(SHA, len(PLAIN), pieces(PACKED))
    (store.root / "objects" / SHA[:2] / ".incoming-0011").write_bytes(b"half")
    assert [each.sha256 for each in store.list()] == [SHA]
    assert store.sweep() == 1
    assert files_in(store.root) == [object_path(SHA)]


def test_verify_finds_what_was_changed_behind_its_back(store: FolderObjectStore) -> None:
    store.put(SHA, len(PLAIN), pieces(PACKED))
    assert verify_store(store, {SHA: len(PLAIN), "0" * 64: 1}) == ["0" * 64]
    (store.root / object_path(SHA)).write_bytes(PACKED[:-5] + b"12345")
    assert verify_store(store, {SHA: len(PLAIN)}) == [SHA]
