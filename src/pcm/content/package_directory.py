"""Reading a package directory: every file by path, length and SHA-256, in an order that is always the same.

Step 1 of 12: `pcm package create` reads `package.yaml` and calls this; the manifest is made of both, and `publish` (step 2)
reads the same files again. What a package cannot carry is named here, on the packager's machine, before anything is signed:
links, devices, names that mean something else on another system. It changes nothing and holds no file in memory. Large files
are hashed by several threads; what was hashed before and has not been touched since is not read again (`ScanMemory`).
"""

import hashlib
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

from pcm.model.errors import RequestError
from pcm.model.package import MAX_FILES, PackageFile
from pcm.model.paths import check_paths

DESCRIPTION = "package.yaml"  # at the top: describes the package, and is no part of its content
_PIECE = 1024 * 1024
_LARGE = 1024 * 1024  # smaller files are not worth a thread of their own
_THREADS = 2
_SETTLED_NS = 2_000_000_000  # a file that was written to so shortly before could be again, and show no newer time


class Mark(NamedTuple):
    """What tells one state of a file from another without reading it. Times in nanoseconds.

    `changed_ns` (ctime) cannot be set back as `modified_ns` can.
    """

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int


class ScanMemory(Protocol):
    """What was hashed before."""

    def find(self, path: str, mark: Mark) -> str | None:
        """The SHA-256 of the file that had this path and this mark, or None."""

    def keep(self, path: str, mark: Mark, sha256: str) -> None:
        """Remember one."""


class Forgetful:
    """A `ScanMemory` that remembers nothing."""

    def find(self, path: str, mark: Mark) -> str | None:  # noqa: ARG002
        """See `ScanMemory.find`."""
        return None

    def keep(self, path: str, mark: Mark, sha256: str) -> None:
        """See `ScanMemory.keep`."""


class ScanProgress(NamedTuple):
    """How far a scan is. `path`: the file that is being read."""

    path: str
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int


def scan(
    directory: Path,
    on_progress: Callable[[ScanProgress], None] | None = None,
    memory: ScanMemory | None = None,
) -> tuple[PackageFile, ...]:
    """List and hash all files below a directory.

    Empty folders do not travel: a program that needs one makes it. The executable bit is the owner's.

    Args:
        directory: The package directory; `package.yaml` at its top is left out.
        on_progress: Called after each file, and while large ones are read; one call at a time.
        memory: What was hashed before; it is added to.

    Returns:
        The files, by path in code-point order: the same directory always gives the same value.

    Raises:
        RequestError: `not_found` (no such directory), `request.path` (a name), `request.link`, `request.file_kind` (device,
            socket, FIFO), `request.unreadable`, `request.file_changed` (while it was read), `request.too_many_files`.
    """
    if not directory.is_dir():
        raise RequestError(f"There is no package directory {directory}.", code="not_found")
    found = sorted(_walk(directory, ""))
    if len(found) > MAX_FILES:
        raise RequestError(
            f"{directory} has {len(found)} files; a package carries at most {MAX_FILES}. Pack some together.",
            code="request.too_many_files",
        )
    check_paths((path for path, _ in found), folding=False)  # the package says later for which systems it is
    counter = _Counter(len(found), sum(length for _, length in found), on_progress)
    return tuple(_hash_all(directory, found, counter, memory or Forgetful()))


class _Counter:
    """Counts what is read, from any thread."""

    def __init__(self, files: int, total: int, on_progress: Callable[[ScanProgress], None] | None) -> None:
        self._files, self._total, self._on_progress = files, total, on_progress
        self._turn = threading.Lock()
        self._files_done = self._bytes_done = 0

    def add(self, path: str, count: int, *, whole: bool = False) -> None:
        """So many bytes of a file were read; `whole`: that was its end."""
        with self._turn:
            self._bytes_done += count
            self._files_done += whole
            if self._on_progress is not None:
                self._on_progress(ScanProgress(path, self._files_done, self._files, self._bytes_done, self._total))


def _hash_all(
    directory: Path, found: list[tuple[str, int]], counter: _Counter, memory: ScanMemory
) -> Iterator[PackageFile]:
    """In the order of `found`; large files are read ahead by threads. Only this thread touches the memory."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hash")
    ahead: deque[tuple[Mark, Future[PackageFile] | PackageFile]] = deque()
    large = 0

    def first() -> PackageFile:
        nonlocal large
        mark, made = ahead.popleft()
        if isinstance(made, Future):
            large -= 1
            made = made.result()
        if mark.size and _is_settled(mark):
            memory.keep(made.path, mark, made.sha256)
        return made

    try:
        for path, _ in found:
            mark, mode = _look(directory / path)
            known = memory.find(path, mark) if mark.size else None
            if known is not None:
                counter.add(path, mark.size, whole=True)
                ahead.append((mark, PackageFile(path, mark.size, known, bool(mode & stat.S_IXUSR))))
            elif mark.size < _LARGE:
                ahead.append((mark, hash_file(directory, path, counter.add)))
            else:
                large += 1
                ahead.append((mark, pool.submit(hash_file, directory, path, counter.add)))
            while ahead and (large > _THREADS or not large):
                yield first()
        while ahead:
            yield first()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _look(place: Path) -> tuple[Mark, int]:
    try:
        status = os.stat(place, follow_symlinks=False)  # noqa: PTH116
    except OSError as error:
        raise _unreadable(place, error) from error
    _check_kind(place, status.st_mode)
    mark = Mark(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    return mark, status.st_mode


def _is_settled(mark: Mark) -> bool:
    return max(mark.modified_ns, mark.changed_ns) + _SETTLED_NS < time.time_ns()


def _walk(directory: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Relative path and length of each file, in no particular order."""
    folders = [prefix]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(directory / folder))
        except OSError as error:
            raise _unreadable(directory / folder, error) from error
        for entry in entries:
            path = folder + entry.name
            if path == DESCRIPTION:
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                folders.append(path + "/")
                continue
            _check_kind(directory / path, status.st_mode)
            yield path, status.st_size


def _count_nothing(path: str, count: int, *, whole: bool = False) -> None:
    pass


def hash_file(directory: Path, path: str, on_bytes: Callable[..., None] = _count_nothing) -> PackageFile:
    """Read one file of a package directory.

    Args:
        on_bytes: Called with the path and how many bytes were read, and `whole=True` at the end.

    Raises:
        RequestError: as `scan`.
    """
    place = directory / path
    try:
        with os.fdopen(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", 0) as file:
            before = os.fstat(file.fileno())
            _check_kind(place, before.st_mode)
            digest, length, counted = hashlib.sha256(), 0, 0
            view = memoryview(bytearray(min(_PIECE, before.st_size + 1)))
            while count := file.readinto(view):
                digest.update(view[:count])
                length += count
                if count == _PIECE:
                    on_bytes(path, count)
                    counted += count
            after = os.fstat(file.fileno())
    except OSError as error:
        raise _unreadable(place, error) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or length != after.st_size:
        raise RequestError(
            f"{place} changed while it was read. Close what writes to it, and try again.", code="request.file_changed"
        )
    on_bytes(path, length - counted, whole=True)
    return PackageFile(
        path=path, length=length, sha256=digest.hexdigest(), executable=bool(before.st_mode & stat.S_IXUSR)
    )


def _check_kind(place: Path, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise RequestError(
            f"{place} is a link; a package carries files only. Put the file itself in its place.", code="request.link"
        )
    if not stat.S_ISREG(mode):
        raise RequestError(
            f"{place} is neither a file nor a folder (a device, socket or pipe). Remove it.", code="request.file_kind"
        )


def _unreadable(place: Path, error: OSError) -> RequestError:
    return RequestError(f"{place} cannot be read: {error.strerror}.", code="request.unreadable")
