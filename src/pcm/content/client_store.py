"""The client's store: plain bytes by hash, of what is installed or wanted.

Serves step 8: `assembly` fills it, `steps/stage` copies out of it. It belongs to the service alone (0700); still, what it gives
is hashed again as it is read, so a damaged disk costs a download and never a wrong file. Files are not synced one by one: a
file that a power cut spoils is found out by its hash. What nobody wants goes, least recently used first, with a report.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pcm.content.objects import is_object_name, verified
from pcm.content.whole_files import storing, sweep, write_whole
from pcm.model.errors import RequestError, StoreError

_PIECE = 1024 * 1024


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
        path, digest, came = self._path(sha256), hashlib.sha256(), 0
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", 0) as file:
                while data := file.read(_PIECE):
                    digest.update(data)
                    came += len(data)
                    yield data
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}.", code="store.damaged") from error
        if came != length or digest.hexdigest() != sha256:
            with contextlib.suppress(OSError):
                path.unlink()
            raise StoreError(f"{path} was damaged; it is removed, and fetched again when needed.", code="store.damaged")
        self._touch(sha256)

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
