"""The packager's side of publishing: what a distribution server lacks goes there, object by object.

Step 2 of 12: `pcm package publish` calls this before it sends the signed manifest; who takes the objects (the site's API,
a folder) is an `Uploader`. Interrupted, it goes on where it was: the server says what it lacks. It signs nothing and streams
everything.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

from pcm.content.object_store import FolderObjectStore
from pcm.content.objects import PIECE as BLOCK
from pcm.content.objects import pack
from pcm.content.uploads import TAIL, Uploads
from pcm.model.errors import RequestError, TrustError
from pcm.model.package import PackageFile

SMALL = 2**20  # bytes; such files travel together
PIECE = 2**20
_AT_ONCE = 2
_PACKERS = 2
_BATCH_BYTES = 16 * 2**20
_BATCH_OBJECTS = 4000
_RESUMED = 16 * 2**20  # a smaller object is sent again rather than asked about


class Started(NamedTuple):
    """What an interrupted upload has left at a server: bytes packed, and the SHA-256 of the last `TAIL` of them."""

    received: int
    tail_sha256: str


class Uploader(Protocol):
    """A distribution server as a packager sees it. Several threads use it at once."""

    def lacking(self, names: Collection[str]) -> set[str]:
        """Those of the objects that the server does not have."""

    def started(self, sha256: str) -> Started:
        """How much of a large object an interrupted upload has brought."""

    def upload(self, sha256: str, length: int, packed: Iterable[bytes], offset: int = 0) -> None:
        """Send one object, from a packed offset that `started` told; the server verifies it before it is visible."""

    def upload_small(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Send many small objects, packed, in one go."""


class StoreUploader:
    """An `Uploader` into an object store on this machine: a folder, a mounted share."""

    def __init__(self, store: FolderObjectStore) -> None:
        self._store = store

    def lacking(self, names: Collection[str]) -> set[str]:
        """See `Uploader.lacking`."""
        return {name for name in names if not self._store.has(name)}

    def started(self, sha256: str) -> Started:
        """See `Uploader.started`."""
        return Started(*Uploads(self._store).begun(sha256))

    def upload(self, sha256: str, length: int, packed: Iterable[bytes], offset: int = 0) -> None:
        """See `Uploader.upload`."""
        Uploads(self._store).take(sha256, length, offset, packed)

    def upload_small(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """See `Uploader.upload_small`."""
        self._store.put_small(objects)


class UploadProgress(NamedTuple):
    """How far an upload is; bytes of plain files. `path`: a file that is being sent."""

    path: str
    objects_done: int
    objects_total: int
    bytes_done: int
    bytes_total: int


def upload_missing(
    directory: Path,
    files: Sequence[PackageFile],
    uploader: Uploader,
    on_progress: Callable[[UploadProgress], None] | None = None,
) -> int:
    """Send the objects that the server lacks: small ones together, large ones beside them, each from where it was left.

    Args:
        directory: The package directory that `files` was scanned from.
        on_progress: One call at a time, from any thread.

    Returns:
        How many objects were sent.

    Raises:
        RequestError: `request.file_changed`: a file is not the one that was scanned.
        StoreError, TransferError, TrustError: as the uploader says.
    """
    unique = {file.sha256: file for file in files}
    lacking = uploader.lacking(unique.keys())
    todo = [file for sha256, file in unique.items() if sha256 in lacking]
    counter = _Counter(len(todo), sum(file.length for file in todo), on_progress)
    stopping = threading.Event()

    def stoppable(task: Callable[[], None]) -> None:
        if not stopping.is_set():
            task()

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="upload") as pool:
        running: set[Future[None]] = set()
        try:
            for task in _tasks(directory, todo, uploader, counter):
                if len(running) >= 2 * _AT_ONCE:  # no more than a few tasks wait, whatever the package has
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for each in done:
                        each.result()
                running.add(pool.submit(stoppable, task))
            for each in as_completed(running):
                each.result()
        except BaseException:
            stopping.set()
            counter.stop()
            raise
    return len(todo)


class _Counter:
    """Counts what is sent, from any thread."""

    def __init__(self, objects: int, total: int, on_progress: Callable[[UploadProgress], None] | None) -> None:
        self._objects, self._total, self._on_progress = objects, total, on_progress
        self._turn = threading.Lock()
        self._objects_done = self._bytes_done = 0
        self._stopped = False

    def add(self, path: str, count: int, objects: int = 0) -> None:
        """So many plain bytes are on their way; `objects` are there."""
        with self._turn:
            if self._stopped:
                raise RequestError("The upload was given up.", code="request.incomplete")
            self._bytes_done += count
            self._objects_done += objects
            if self._on_progress is not None:
                self._on_progress(
                    UploadProgress(path, self._objects_done, self._objects, self._bytes_done, self._total)
                )

    def stop(self) -> None:
        """Whatever still counts fails: another thread did."""
        with self._turn:
            self._stopped = True


def _tasks(
    directory: Path, todo: Sequence[PackageFile], uploader: Uploader, counter: _Counter
) -> Iterator[Callable[[], None]]:
    batch: list[PackageFile] = []
    size = 0
    for file in todo:
        if file.length > SMALL:
            yield partial(_send_large, directory, file, uploader, counter)
            continue
        batch.append(file)
        size += file.length
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_OBJECTS:
            yield partial(_send_small, directory, tuple(batch), uploader, counter)
            batch, size = [], 0
    if batch:
        yield partial(_send_small, directory, tuple(batch), uploader, counter)


def _send_small(directory: Path, files: Sequence[PackageFile], uploader: Uploader, counter: _Counter) -> None:
    packed = [(file.sha256, b"".join(packed_file(directory, file))) for file in files]
    uploader.upload_small(packed)
    counter.add(files[-1].path, sum(file.length for file in files), len(files))


def _send_large(directory: Path, file: PackageFile, uploader: Uploader, counter: _Counter) -> None:
    """Go on where an earlier attempt stopped, if this machine packs the file as it did then; else begin anew."""
    told = 0

    def count(done: int) -> None:
        nonlocal told
        if done > told:
            counter.add(file.path, done - told)
            told = done

    started = uploader.started(file.sha256) if file.length >= _RESUMED else Started(0, "")
    if started.received:
        rest = _behind(packed_file(directory, file, count), started)
        if rest is not None:
            try:
                uploader.upload(file.sha256, file.length, rest, started.received)
            except TrustError:
                pass  # what was left there was damaged: the site has thrown it away
            else:
                counter.add(file.path, file.length - told, 1)
                return
    uploader.upload(file.sha256, file.length, packed_file(directory, file, count))
    counter.add(file.path, file.length - told, 1)


def _behind(packed: Iterator[bytes], started: Started) -> Iterator[bytes] | None:
    """The packed bytes behind those that are there; None if these are others."""
    passed, tail = 0, b""
    for piece in packed:
        before = started.received - passed
        if len(piece) >= before:
            tail = (tail + piece[:before])[-TAIL:]
            if hashlib.sha256(tail).hexdigest() != started.tail_sha256:
                return None
            return chain((piece[before:],) if piece[before:] else (), packed)
        passed += len(piece)
        tail = (tail + piece)[-TAIL:]
    return None


def packed_file(directory: Path, file: PackageFile, on_bytes: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """Read and pack one file of a package directory; large ones with two threads, and the same bytes each time.

    Args:
        on_bytes: Called with how much of the file has been read.

    Raises:
        RequestError: `request.file_changed`: gone, a link now, or of another length. Other bytes of the same length are noticed
            by whoever takes the object in.
    """
    place = directory / file.path
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RequestError(f"{place} cannot be read: {error.strerror}.", code="request.file_changed") from error
    with os.fdopen(descriptor, "rb", 0) as opened:
        if os.fstat(descriptor).st_size != file.length:
            raise RequestError(
                f"{place} changed since the package was made. Make it again.", code="request.file_changed"
            )
        large = file.length > SMALL
        for piece in pack(opened, file.length, threads=_PACKERS if large else 0, piece=PIECE if large else BLOCK):
            if on_bytes is not None:
                on_bytes(opened.tell())
            yield piece
