"""Uploads that are interrupted: what has come counts, what is wrong does not, and nothing is ever half there."""

import hashlib
import io
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm.content import uploads
from pcm.content.object_store import FolderObjectStore
from pcm.content.objects import object_path, pack
from pcm.content.package_directory import scan
from pcm.content.uploads import Uploads
from pcm.distribution import publish
from pcm.distribution.publish import StoreUploader, UploadProgress, packed_file, upload_missing
from pcm.model.errors import PcmError, RequestError, TrustError

CONTENT = Random(1).randbytes(3 * 2**20) + bytes(2**20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACKED = b"".join(pack(io.BytesIO(CONTENT), len(CONTENT), threads=2))


@pytest.fixture
def store(tmp_path: Path) -> FolderObjectStore:
    return FolderObjectStore(tmp_path / "server")


def pieces(data: bytes, size: int = 100_000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def breaking_off(data: bytes, after: int) -> Iterator[bytes]:
    yield from pieces(data[:after])
    raise RequestError("The upload ended before its end.", code="request.incomplete")


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, len(PACKED) - 1), max_size=4))
def test_whatever_was_interrupted_where_the_rest_completes_it(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    store = FolderObjectStore(tmp_path_factory.mktemp("server"))
    incoming = Uploads(store)
    sent = 0
    for cut in sorted(cuts):
        begun = incoming.begun(SHA256)
        with pytest.raises(RequestError):
            incoming.take(
                SHA256,
                len(CONTENT),
                begun.received,
                breaking_off(PACKED[begun.received :], max(0, cut - begun.received)),
            )
        assert not store.has(SHA256)
        assert incoming.begun(SHA256).received >= begun.received
        sent = incoming.begun(SHA256).received
        tail = PACKED[max(0, sent - uploads.TAIL) : sent]
        assert incoming.begun(SHA256).tail_sha256 == hashlib.sha256(tail).hexdigest()
    assert incoming.take(SHA256, len(CONTENT), sent, pieces(PACKED[sent:]))
    assert (store.root / object_path(SHA256)).read_bytes() == PACKED
    assert not list((store.root / "uploads").iterdir())


def test_what_an_attempt_left_and_is_wrong_is_thrown_away(store: FolderObjectStore) -> None:
    incoming = Uploads(store)
    with pytest.raises(RequestError):
        incoming.take(SHA256, len(CONTENT), 0, breaking_off(PACKED, 1_000_000))
    part = store.root / "uploads" / f"{SHA256}.part"
    part.write_bytes(part.read_bytes()[:-10] + bytes(10))
    with pytest.raises(TrustError):
        incoming.take(SHA256, len(CONTENT), 1_000_000, pieces(PACKED[1_000_000:]))
    assert incoming.begun(SHA256).received == 0
    assert not store.has(SHA256)


def test_an_offset_beyond_what_is_there_is_refused(store: FolderObjectStore) -> None:
    with pytest.raises(RequestError) as raised:
        Uploads(store).take(SHA256, len(CONTENT), 10, pieces(PACKED[10:]))
    assert raised.value.code == "conflict"


def test_what_nobody_goes_on_with_is_swept_after_days(store: FolderObjectStore) -> None:
    incoming = Uploads(store)
    with pytest.raises(RequestError):
        incoming.take(SHA256, len(CONTENT), 0, breaking_off(PACKED, 1_000_000))
    assert incoming.sweep() == 0
    part = store.root / "uploads" / f"{SHA256}.part"
    then = time.time() - uploads.KEPT_S - 10
    os.utime(part, (then, then))
    assert incoming.sweep() == 1


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "large").write_bytes(Random(2).randbytes(40 * 2**20))
    for number in range(300):
        (folder / f"small{number}").write_bytes(b"small %d" % number * 20)
    (folder / "empty").write_bytes(b"")
    return folder


class Counting(StoreUploader):
    """Counts what travels."""

    def __init__(self, store: FolderObjectStore) -> None:
        super().__init__(store)
        self.bytes = self.batches = self.singles = 0

    def upload(self, sha256: str, length: int, packed: Iterable[bytes], offset: int = 0) -> None:
        def counted() -> Iterator[bytes]:
            for piece in packed:
                self.bytes += len(piece)
                yield piece

        self.singles += 1
        super().upload(sha256, length, counted(), offset)

    def upload_small(self, objects: Sequence[tuple[str, bytes]]) -> None:
        self.batches += 1
        super().upload_small(objects)


def test_many_small_files_are_few_requests(package: Path, store: FolderObjectStore) -> None:
    uploader = Counting(store)
    files = scan(package)
    told: list[UploadProgress] = []
    assert upload_missing(package, files, uploader, told.append) == 302
    assert (uploader.batches, uploader.singles) == (1, 1)
    assert told[-1].bytes_done == told[-1].bytes_total == sum(file.length for file in files)
    assert told[-1].objects_done == 302
    assert [each.bytes_done for each in told] == sorted(each.bytes_done for each in told)
    for file in files:
        assert store.has(file.sha256)
    assert upload_missing(package, files, Counting(store)) == 0


def test_killed_at_any_moment_it_goes_on_and_sends_nothing_twice(package: Path, store: FolderObjectStore) -> None:
    """kill -9 in the middle of the large file, three times; then the rest: all in all hardly more than once travels."""
    files = scan(package)
    large = next(file for file in files if file.path == "large")
    for _ in range(3):
        before = Uploads(store).begun(large.sha256).received
        child = os.fork()
        if child == 0:
            try:
                upload_missing(package, [large], _Slow(store))
            finally:
                os._exit(0)
        deadline = time.monotonic() + 20
        while Uploads(store).begun(large.sha256).received < before + 3 * 2**20 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not store.has(large.sha256)
    left = Uploads(store).begun(large.sha256).received
    assert left >= 9 * 2**20
    uploader = Counting(store)
    upload_missing(package, files, uploader)
    assert store.has(large.sha256)
    assert uploader.bytes <= large.length + 100_000 - left  # it resumes: not one byte of what was there travels again


class _Slow(StoreUploader):
    def upload(self, sha256: str, length: int, packed: Iterable[bytes], offset: int = 0) -> None:
        def slowly() -> Iterator[bytes]:
            for piece in packed:
                yield piece
                time.sleep(0.02)

        super().upload(sha256, length, slowly(), offset)


def test_a_file_that_changed_meanwhile_is_begun_anew_or_refused_and_never_mixed(
    package: Path, store: FolderObjectStore
) -> None:
    [large] = [file for file in scan(package) if file.path == "large"]
    incoming = Uploads(store)
    packed = b"".join(packed_file(package, large))
    with pytest.raises(TrustError):
        incoming.take(large.sha256, large.length, 0, breaking_off(b"x" * 20 + packed[20:], 10 * 2**20))
    # that was refused at once; now something lies there that only looks like a beginning
    part = store.root / "uploads" / f"{large.sha256}.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(Random(9).randbytes(5 * 2**20))
    uploader = Counting(store)
    upload_missing(package, [large], uploader)
    assert store.has(large.sha256)
    assert uploader.bytes >= large.length  # from the beginning


def test_one_that_fails_ends_all_and_says_why(package: Path, store: FolderObjectStore) -> None:
    files = scan(package)
    (package / "small7").write_bytes(b"another length")
    with pytest.raises(PcmError) as raised:
        upload_missing(package, files, StoreUploader(store))
    assert raised.value.code == "request.file_changed"
    assert publish.SMALL == 2**20
