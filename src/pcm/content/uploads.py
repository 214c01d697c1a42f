"""Large objects that come in piece by piece, perhaps in several attempts: what has come is kept until the rest comes.

Serves step 2, on the site: `site.api.objects` hands over what a packager sends. What an interrupted upload has brought lies in
`uploads/` beside the objects; the next attempt goes on behind it. An object is still verified as a whole, from its
first byte, before it gets its name: what was kept is believed as little as what comes.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pcm.content.object_store import BLOCK, FolderObjectStore, verified_as_it_passes
from pcm.content.objects import is_object_name, object_path
from pcm.content.whole_files import storing, sync_folder, write_all
from pcm.model.errors import RequestError, TrustError

TAIL = 2**20
KEPT_S = 3 * 86_400.0


class Begun(NamedTuple):
    """How far an upload came: bytes packed, and the SHA-256 of the last `TAIL` of them (or all, if they are fewer)."""

    received: int
    tail_sha256: str


class Uploads:
    """Uploads into one folder's object store."""

    def __init__(self, store: FolderObjectStore) -> None:
        self._store = store
        self._folder = store.root / "uploads"

    def begun(self, sha256: str) -> Begun:
        """What an interrupted upload of an object has left. Raises RequestError `request.object_name`."""
        try:
            with self._part(sha256).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL))
                return Begun(size, hashlib.sha256(file.read(TAIL)).hexdigest())
        except OSError:
            return Begun(0, hashlib.sha256().hexdigest())

    def take(self, sha256: str, length: int, offset: int, packed: Iterable[bytes]) -> bool:
        """Take in an object whose first `offset` bytes are here already; False if the object is.

        Two that bring the same object wait for each other.

        Raises:
            RequestError: `conflict`: less than `offset` is here. `request.object_name`.
            TrustError, StoreError: as `ObjectStore.put`. What has come stays for the next attempt unless it is wrong.
        """
        part = self._part(sha256)
        with storing(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with storing(part):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self._store.has(sha256):
                return False
            if not _is_here(part, descriptor):  # whoever was first has made it an object, or removed what was wrong
                raise RequestError(f"Object {sha256} was being uploaded by another. Ask again.", code="conflict")
            self._fill(descriptor, part, (sha256, length, offset), packed)
            final = self._store.root / object_path(sha256)
            with storing(final):
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
                final.parent.mkdir(parents=True, exist_ok=True)
                part.rename(final)
                sync_folder(final.parent)
        finally:
            os.close(descriptor)
        return True

    def sweep(self, older_than_s: float = KEPT_S) -> int:
        """Remove what nobody has gone on with for long; how many."""
        removed = 0
        for part in self._folder.glob("*.part"):
            with contextlib.suppress(OSError):
                if part.stat().st_mtime < time.time() - older_than_s:
                    part.unlink()
                    removed += 1
        return removed

    def _fill(self, descriptor: int, part: Path, what: tuple[str, int, int], packed: Iterable[bytes]) -> None:
        sha256, length, offset = what
        if os.fstat(descriptor).st_size < offset:
            raise RequestError(f"Less than {offset} bytes of object {sha256} are here. Ask again.", code="conflict")
        with storing(part):
            os.ftruncate(descriptor, offset)
            os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            for _ in verified_as_it_passes(_all(descriptor, part, packed), sha256, length):
                pass
        except TrustError:
            part.unlink(missing_ok=True)
            raise

    def _part(self, sha256: str) -> Path:
        if not is_object_name(sha256):
            raise RequestError(f"{sha256[:80]!r} is not the SHA-256 of an object.", code="request.object_name")
        return self._folder / f"{sha256}.part"


def _all(descriptor: int, part: Path, packed: Iterable[bytes]) -> Iterator[bytes]:
    """What is here, then what comes, each piece written behind what was before."""
    while piece := os.read(descriptor, BLOCK):
        yield piece
    for piece in packed:
        with storing(part):
            write_all(descriptor, piece)
        yield piece


def _is_here(part: Path, descriptor: int) -> bool:
    try:
        status = part.stat()
    except OSError:
        return False
    opened = os.fstat(descriptor)
    return (status.st_ino, status.st_dev) == (opened.st_ino, opened.st_dev)
