"""Part files: what has come of something larger than one breath, so that nothing interrupted is fetched twice.

Serves step 8: `assembly` opens them, the transfer process appends to them as bytes arrive, the next attempt goes on with what it
finds, after whatever ended the last one, at whichever source. A part is the stretch of one file of a server from a byte on, named
by both; what it holds is believed in nothing: whoever uses it hashes what comes out. It lies in the store's folder, so that the
store's disk check and protection are its own. Parts are synced as they grow, while the transfer goes on.
"""

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from pcm.content.whole_files import storing

FOLDER = "parts"  # in the store
UNUSED_S = 14 * 86_400.0
SYNC_BYTES = 512 * 1024  # so much may be lost by a power cut, and what comes during one sync
_SYNC_SHARE = 10  # a sync takes at most one part in so many of the time
_DIGITS = 14  # of a start, in hexadecimal: any file's


class Swept(NamedTuple):
    """What a clean-up of parts did, in files and bytes."""

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int


class Part:
    """One open part: a context manager that closes, and keeps, it.

    Attributes:
        descriptor: Of the file, to read and to append.
        start: The byte of the server's file that its first byte is.
    """

    def __init__(self, path: Path, descriptor: int, start: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.start = start
        self._synced = self._length()
        self._sync_after = 0.0

    @property
    def end(self) -> int:
        """The byte of the server's file after its last one."""
        return self.start + self._length()

    def cut(self, end: int) -> None:
        """Forget what it has from that byte of the server's file on."""
        with storing(self.path):
            os.ftruncate(self.descriptor, max(0, min(end, self.end) - self.start))
        self._synced = min(self._synced, self._length())

    def sync(self, *, now: bool = False) -> None:
        """Make what is there survive a power cut, if enough has come since, and the disk is not kept busy by it.

        Args:
            now: Whatever has come.
        """
        length, began = self._length(), time.monotonic()
        if not now and (length - self._synced < SYNC_BYTES or began < self._sync_after):
            return
        with storing(self.path):
            os.fdatasync(self.descriptor)
        took = time.monotonic() - began
        self._synced, self._sync_after = length, began + took + took * _SYNC_SHARE

    def _length(self) -> int:
        return os.fstat(self.descriptor).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)


class Parts:
    """The parts of one store.

    Args:
        store: Its folder, which is the service's own.
        clock: Unix seconds, for 'last used'.
    """

    def __init__(self, store: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = store / FOLDER
        self._clock = clock
        with storing(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def open(self, path: str, start: int = 0) -> Part:
        """The part that goes on at a byte of a server's file: one that ends there, one that begins there, or a new one.

        Args:
            path: Of the file, below a distribution server.

        Raises:
            StoreError: `store.disk_full`, `store.not_writable`.
        """
        begins = next((first for first, end in self.stretches(path) if first < start == end), start)
        return self._open(self._place(path, begins), begins)

    def holding(self, path: str, start: int, end: int) -> Part | None:
        """The part that holds all these bytes of a server's file."""
        for first, last in self.stretches(path):
            if first <= start and end <= last:
                return self._open(self._place(path, first), first)
        return None

    def stretches(self, path: str) -> tuple[tuple[int, int], ...]:
        """What is here of a server's file: start and end of each stretch, in order; of two from one byte on, the longer."""
        prefix, found = f"{_name(path)}-", []
        for each in self._files():
            if each.name.startswith(prefix) and (length := _size(each)):
                start = int(each.name[len(prefix) : len(prefix) + _DIGITS], 16)
                found.append((start, start + length))
        return tuple(sorted(found))

    def drop(self, *paths: str) -> None:
        """Forget everything of these files of servers."""
        found = list(self._files())
        names = {_name(path) for path in paths} if found else set()
        for each in found:
            if each.name[:64] in names:
                with storing(each), contextlib.suppress(FileNotFoundError):
                    each.unlink()

    def bytes(self) -> int:
        """Bytes that all parts take up."""
        return sum(_size(each) for each in self._files())

    def sweep(self, budget_bytes: int) -> Swept:
        """Remove parts that nobody has gone on with for long, and of the others the least recently used beyond a budget."""
        aged = []
        for each in self._files():
            with contextlib.suppress(FileNotFoundError):
                aged.append((each.lstat().st_mtime, each.name, _size(each), each))
        aged.sort(reverse=True)
        now, kept, kept_bytes, removed, removed_bytes = self._clock(), 0, 0, 0, 0
        for used, _, size, each in aged:
            if now - used <= UNUSED_S and kept_bytes + size <= budget_bytes:
                kept, kept_bytes = kept + 1, kept_bytes + size
                continue
            with storing(each), contextlib.suppress(FileNotFoundError):
                each.unlink()
            removed, removed_bytes = removed + 1, removed_bytes + size
        return Swept(removed, removed_bytes, kept, kept_bytes)

    def _place(self, path: str, start: int) -> Path:
        return self.root / f"{_name(path)}-{start:0{_DIGITS}x}.part"

    def _open(self, place: Path, start: int) -> Part:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with storing(place):
            try:
                descriptor = os.open(place, flags, 0o600)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                    raise
                place.unlink()  # the folder is the service's own: nobody but an administrator put that there
                descriptor = os.open(place, flags, 0o600)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                place.unlink()
                descriptor = os.open(place, flags, 0o600)
            now = self._clock()
            os.utime(descriptor, (now, now))
        return Part(place, descriptor, start)

    def _files(self) -> Iterator[Path]:
        try:
            with os.scandir(self.root) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return
        for name in names:
            if name.endswith(".part") and len(name) == 64 + 1 + _DIGITS + len(".part"):
                yield self.root / name


def _name(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
