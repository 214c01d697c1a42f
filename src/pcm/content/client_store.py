"""The client's store: plain bytes by hash, of what is installed or wanted.

Serves step 8: `assembly` fills it, `steps/stage` copies out of it. It belongs to the service alone (0700); still, what it gives
is hashed again as it is read, so a damaged disk costs a download and never a wrong file. Files are not synced one by one: a
file that a power cut spoils is found out by its hash. What nobody wants goes, least recently used first, with a report.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pcm.content.objects import is_object_name, verified
from pcm.content.whole_files import TEMPORARY_PREFIX, storing, sweep, sync_folder, write_whole
from pcm.model.errors import RequestError, StoreError

_PIECE = 1024 * 1024
_ONE_BY_ONE = 64  # files that are synced one by one


class Held(NamedTuple):
    """One file in the store. `used`: unix seconds of the last use."""

    sha256: str
    length: int
    used: float


class Collected(NamedTuple):
    """What a clean-up did, in files and bytes. `kept` counts what is wanted and what fits the budget."""

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int
    leftovers: int


class ClientStore:
    """Plain files by hash below `root/ab/<sha256>`.

    Args:
        root: An existing or new folder, the service's own.
        clock: Unix seconds, for 'last used'.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self._clock = clock
        with storing(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def has(self, sha256: str, length: int) -> bool:
        """Whether a file of this name and length is there. Its bytes are looked at when it is read."""
        try:
            status = os.lstat(self._path(sha256))
        except OSError:
            return False
        return status.st_size == length

    def add(self, sha256: str, length: int, pieces: Iterable[bytes], origin: str) -> None:
        """Keep a file.

        Args:
            pieces: Its plain bytes, read to their end.
            origin: Where they come from, for messages.

        Raises:
            TrustError: `trust.content`, `trust.endless_data`: they are not the bytes that the name stands for.
            StoreError: `store.disk_full`, `store.not_writable`.
        """
        write_whole(self._path(sha256), verified(pieces, sha256, length, origin), mode=0o600, durable=False)
        self._touch(sha256)

    def read(self, sha256: str, length: int) -> Iterator[bytes]:
        """The file's bytes; wait for the end before believing them. A damaged file is removed.

        Raises:
            StoreError: `store.damaged` (not there, or other bytes).
        """
        path, digest, came, failure = self._path(sha256), hashlib.sha256(), 0, None
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}.", code="store.damaged") from error
        try:
            while data := _read(file):
                digest.update(data)
                came += len(data)
                yield data
        except OSError as error:  # the disk cannot give it: as good as other bytes
            failure = error
        finally:
            os.close(file)
        if failure is not None or came != length or digest.hexdigest() != sha256:
            with contextlib.suppress(OSError):
                path.unlink()
            raise StoreError(
                f"{path} was damaged; it is removed, and fetched again when needed.", code="store.damaged"
            ) from failure
        self._touch(sha256)

    def open(self, sha256: str, length: int) -> int:
        """A descriptor to read the file by, as the base of a newer one. Its bytes are not looked at: what is made of it will be.

        Raises:
            StoreError: `store.damaged`: it is not there, or has another length.
        """
        path = self._path(sha256)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}.", code="store.damaged") from error
        if os.fstat(descriptor).st_size != length:
            os.close(descriptor)
            raise StoreError(f"{path} has another length than it had.", code="store.damaged")
        self._touch(sha256)
        return descriptor

    def is_intact(self, sha256: str, length: int) -> bool:
        """Whether the file is there with the bytes that its name stands for; one that is damaged is removed."""
        try:
            for _ in self.read(sha256, length):
                pass
        except StoreError:
            return False
        return True

    def begin(self, sha256: str, length: int) -> "Incoming":
        """A file that comes in pieces, in any order; `Incoming.finish` keeps it."""
        return Incoming(self._path(sha256), sha256, length)

    def settle(self, added: Sequence[str]) -> None:
        """Make files survive a power cut: a few one by one, many in one go, which waits for what others write too."""
        with storing(self.root):
            if len(added) > _ONE_BY_ONE:
                _sync_disk(self.root)
                return
            for sha256 in added:
                with contextlib.suppress(FileNotFoundError):
                    descriptor = os.open(self._path(sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
            for folder in {self._path(sha256).parent for sha256 in added}:
                sync_folder(folder)

    def list(self) -> Iterator[Held]:
        """All files, in no particular order."""
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            if is_object_name(path.name):
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    yield Held(path.name, status.st_size, status.st_mtime)

    def collect(self, wanted: Collection[str], budget_bytes: int) -> Collected:
        """Remove what is not wanted until the rest fits the budget, least recently used first.

        Args:
            wanted: Names of files that must stay, whatever the budget.
            budget_bytes: Bytes that the store may take up; wanted files count, and may exceed it.
        """
        leftovers = sweep(self.root)
        held = sorted(self.list(), key=lambda file: (file.used, file.sha256))
        total, removed, removed_bytes = sum(file.length for file in held), 0, 0
        for file in held:
            if total - removed_bytes <= budget_bytes:
                break
            if file.sha256 not in wanted:
                with storing(self._path(file.sha256)), contextlib.suppress(FileNotFoundError):
                    self._path(file.sha256).unlink()
                removed += 1
                removed_bytes += file.length
        return Collected(removed, removed_bytes, len(held) - removed, total - removed_bytes, leftovers)

    def free_bytes(self) -> int:
        """Bytes that this process may still write to the store's disk."""
        with storing(self.root):
            disk = os.statvfs(self.root)
        available = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
        return available * disk.f_frsize

    def _touch(self, sha256: str) -> None:
        now = self._clock()
        with contextlib.suppress(FileNotFoundError), storing(self.root):
            os.utime(self._path(sha256), (now, now), follow_symlinks=False)

    def _path(self, sha256: str) -> Path:
        if not is_object_name(sha256):
            raise RequestError(f"{sha256[:80]!r} is not a SHA-256.", code="request.object_name")
        return self.root / sha256[:2] / sha256


class Incoming:
    """A file that is on its way into the store, piece by piece; it is nothing before `finish`.

    Args:
        final: Where it will be.
    """

    def __init__(self, final: Path, sha256: str, length: int) -> None:
        self._final, self._sha256, self._length = final, sha256, length
        self._path = final.with_name(f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}")
        self._came = 0
        with storing(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put a piece in its place; each once."""
        view = memoryview(data)
        with storing(self._final):
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset, self._came = view[written:], offset + written, self._came + written

    @property
    def is_whole(self) -> bool:
        """Whether as many bytes have come as it shall have."""
        return self._came >= self._length

    def finish(self, origin: str) -> None:
        """Hash it and give it its name, or remove it.

        Raises:
            TrustError: `trust.content`, `trust.endless_data`: these are not the bytes that the name stands for.
        """
        try:
            for _ in verified(self._pieces(), self._sha256, self._length, origin):
                pass
            with storing(self._final):
                os.rename(self._path, self._final)  # noqa: PTH104 - as its other writer does
        finally:
            self.close()

    def _pieces(self) -> Iterator[bytes]:
        offset = 0
        while data := os.pread(self._descriptor, _PIECE, offset):
            offset += len(data)
            yield data

    def close(self) -> None:
        """Give it up, if it was not finished."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()


def _read(file: int) -> bytes:
    return os.read(file, _PIECE)


def _sync_disk(folder: Path) -> None:
    """Write out the whole file system that a folder lies on; where that cannot be asked for, all of them."""
    import ctypes  # noqa: PLC0415 - only where much content comes

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        done = ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
    except AttributeError:
        done = -1
    finally:
        os.close(descriptor)
    if done != 0:
        os.sync()
