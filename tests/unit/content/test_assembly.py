"""Bringing files: only what is missing, only right bytes, from whoever gives them, and not onto a full disk."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.content.assembly import RESERVE_BYTES, Brought, Fetch, FetchProgress, bring, missing_files
from pcm.content.client_store import ClientStore
from pcm.model.errors import StoreError, TransferError, TrustError
from pcm.model.package import PackageFile


def package_file(path: str, content: bytes) -> PackageFile:
    return PackageFile(path, len(content), hashlib.sha256(content).hexdigest())


CONTENTS = {f"f{number}": bytes([number]) * (number * 1000) for number in range(6)}
FILES = [package_file(path, content) for path, content in CONTENTS.items()]
BY_SHA = {file.sha256: CONTENTS[file.path] for file in FILES}


class Servers:
    """Designed-in fake of distribution servers: name to behaviour; remembers who was asked for what."""

    def __init__(self, **behaviours: Callable[[bytes], Iterator[bytes]]) -> None:
        self.behaviours = behaviours
        self.asked: list[tuple[str, str]] = []

    def fetch(self, source: str, file: PackageFile) -> Iterator[bytes]:
        self.asked.append((source, file.path))
        yield from self.behaviours[source](BY_SHA[file.sha256])


def good(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 700):
        yield content[start : start + 700]


def wrong(content: bytes) -> Iterator[bytes]:
    yield content[:-1] + b"!"


def endless(_: bytes) -> Iterator[bytes]:
    while True:
        yield b"x" * 100


def down(_: bytes) -> Iterator[bytes]:
    yield b""
    raise TransferError("is down", code="transfer.unreachable")


def breaks_off(content: bytes) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    raise TransferError("broke off", code="transfer.truncated")


@pytest.fixture
def store(tmp_path: Path) -> ClientStore:
    return ClientStore(tmp_path)


def test_all_files_come_and_the_empty_one_from_nowhere(store: ClientStore) -> None:
    servers = Servers(a=good)
    assert bring(FILES, store, ["a"], servers.fetch) == Brought(6, 15_000, ())
    assert missing_files(FILES, store) == []
    assert ("a", "f0") not in servers.asked
    for file in FILES:
        assert b"".join(store.read(file.sha256, file.length)) == CONTENTS[file.path]


def test_q140051_what_is_there_does_not_travel_again(store: ClientStore) -> None:
    bring(FILES[:4], store, ["a"], Servers(a=good).fetch)
    servers = Servers(a=good)
    assert bring(FILES, store, ["a"], servers.fetch).files == 2
    assert servers.asked == [("a", "f4"), ("a", "f5")]
    assert bring(FILES, store, [], servers.fetch) == Brought(0, 0, ())


def test_equal_files_travel_once(store: ClientStore) -> None:
    twins = [FILES[3], PackageFile("other", FILES[3].length, FILES[3].sha256)]
    servers = Servers(a=good)
    assert bring(twins, store, ["a"], servers.fetch).files == 1
    assert len(servers.asked) == 1


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (wrong, "trust.content"),
        (endless, "trust.endless_data"),
        (down, "transfer.unreachable"),
        (breaks_off, "transfer.truncated"),
    ],
)
def test_a_bad_source_is_named_and_the_next_one_asked(
    store: ClientStore, bad: Callable[[bytes], Iterator[bytes]], code: str
) -> None:
    servers = Servers(bad=bad, b=good)
    brought = bring(FILES, store, ["bad", "b"], servers.fetch)
    assert brought.files == 6
    assert [(each.source, each.code) for each in brought.complaints] == [("bad", code)]
    assert [source for source, _ in servers.asked] == [
        "bad",
        "b",
        "b",
        "b",
        "b",
        "b",
    ]  # asked once, then it stands last


@pytest.mark.parametrize(
    ("behaviours", "error", "code"),
    [
        ({"a": wrong, "b": down}, TrustError, "trust.content"),
        ({"a": down, "b": endless}, TrustError, "trust.endless_data"),
        ({"a": down, "b": breaks_off}, TransferError, "transfer.truncated"),
        ({}, TransferError, "transfer.unreachable"),
    ],
)
def test_when_nobody_gives_a_file_the_worst_reason_is_the_code(
    store: ClientStore, behaviours: dict[str, Callable[[bytes], Iterator[bytes]]], error: type[Exception], code: str
) -> None:
    with pytest.raises(error) as caught:
        bring(FILES, store, list(behaviours), Servers(**behaviours).fetch)
    assert getattr(caught.value, "code", "") == code
    assert "f1" in str(caught.value)
    assert all(name in str(caught.value) for name in behaviours)


def test_a_message_that_names_its_server_does_not_name_it_twice(store: ClientStore) -> None:
    server = "https://bad/distribution"
    with pytest.raises(TrustError) as caught:
        bring(FILES[1:2], store, [server], Servers(**{server: wrong}).fetch)
    assert caught.value.message.count(server) == 1


def test_q137610_room_is_checked_before_the_first_byte(store: ClientStore) -> None:
    free = store.free_bytes()
    servers = Servers(a=good)
    with pytest.raises(StoreError) as caught:
        bring(FILES, store, ["a"], servers.fetch, staging_bytes=free)
    assert caught.value.code == "store.disk_full"
    assert str(store.root) in caught.value.message
    assert str(15_000 + free + RESERVE_BYTES) in caught.value.message
    assert servers.asked == []


def test_an_interrupted_fetch_keeps_what_came(store: ClientStore) -> None:
    def until_f3(source: str, file: PackageFile) -> Iterator[bytes]:
        if file.path == "f3":
            raise KeyboardInterrupt
        yield from good(BY_SHA[file.sha256])

    fetch: Fetch = until_f3
    with pytest.raises(KeyboardInterrupt):
        bring(FILES, store, ["a"], fetch)
    assert [file.path for file in missing_files(FILES, store)] == ["f3", "f4", "f5"]


def test_progress_counts_right_bytes_only(store: ClientStore) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.1
        return now[0]

    told: list[FetchProgress] = []
    bring(FILES, store, ["bad", "b"], Servers(bad=breaks_off, b=good).fetch, on_progress=told.append, clock=clock)
    assert told[-1][:4] == (6, 6, 15_000, 15_000)
    assert told[-1].left_s == 0
    assert all(each.bytes_done <= each.bytes_total and each.rate >= 0 for each in told)
    assert len(told) > 3


@given(st.lists(st.sampled_from([good, wrong, endless, down, breaks_off]), max_size=5))
def test_the_store_never_holds_wrong_bytes(
    tmp_path_factory: pytest.TempPathFactory, behaviours: list[Callable[[bytes], Iterator[bytes]]]
) -> None:
    store = ClientStore(tmp_path_factory.mktemp("store"))
    servers = Servers(**{f"s{number}": behave for number, behave in enumerate(behaviours)})
    try:
        bring(FILES, store, list(servers.behaviours), servers.fetch)
    except (TrustError, TransferError):
        assert good not in behaviours
    else:
        assert good in behaviours
    for held in store.list():
        assert b"".join(store.read(held.sha256, held.length)) == BY_SHA[held.sha256]
