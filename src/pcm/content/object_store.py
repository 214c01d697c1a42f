"""The server's store of objects: packed files by hash, in a folder that any web server can serve.

Serves steps 2 (uploads come in), 5 (content is there before any instruction names it, KB Q235837) and 8 (clients read it).
An object is verified by unpacking it before it gets its name; there is never half a one, and never a wrong one that came
through here. Objects are immutable: what is there stays as it is until it is deleted as a whole.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from pcm.content.objects import (
    FRAME_HEADER,
    MAX_WINDOW,
    check_frame,
    is_object_name,
    largest_packed,
    object_path,
    pieces_of,
    unpack,
    verified,
)
from pcm.content.whole_files import storing, sweep, write_together, write_whole
from pcm.model.errors import RequestError, TrustError

MOST_SMALL = 4 * 2**20  # plain bytes of an object that is taken in whole
BLOCK = 2**20
YOUNG_S = 1800.0


class StoredObject(NamedTuple):
    """One object: the hash of its plain bytes, and the bytes that it takes up packed."""

    sha256: str
    packed: int


class ObjectStore(Protocol):
    """Where objects are kept: a folder today, a bucket another day."""

    def put(self, sha256: str, length: int, packed: Iterable[bytes]) -> bool:
        """Take an object in, verified before it is visible; False if it was there already (nothing is read then).

        Raises:
            TrustError: `trust.content`, `trust.endless_data`: it is not what its name says.
            StoreError: `store.disk_full`, `store.not_writable`.
            RequestError: `request.object_name`.
        """

    def has(self, sha256: str) -> bool:
        """Whether the object is there."""

    def open(self, sha256: str) -> BinaryIO:
        """Its packed bytes. Raises RequestError `not_found`."""

    def delete(self, sha256: str) -> bool:
        """Remove it; False if it was not there."""

    def list(self) -> Iterator[StoredObject]:
        """All objects, in no particular order."""


class FolderObjectStore:
    """An `ObjectStore` in a folder, with the layout that a distribution server shows.

    Args:
        root: The distribution server's root; objects lie below `objects/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, sha256: str, length: int, packed: Iterable[bytes]) -> bool:
        """See `ObjectStore.put`."""
        path = self._path(sha256)
        if path.exists():
            return False
        write_whole(path, verified_as_it_passes(packed, sha256, length))
        return True

    def put_small(self, objects: Iterable[tuple[str, bytes]]) -> int:
        """Take in many small objects, each whole in memory; how many were new. All are verified before any is visible.

        They reach the disk together: what syncing each by itself would cost hundreds of times.

        Raises:
            TrustError, StoreError, RequestError: as `ObjectStore.put`; none of them is visible then.
        """
        fresh = {sha256: packed for sha256, packed in objects if not self._path(sha256).exists()}
        for sha256, packed in fresh.items():
            verify_small(sha256, packed)
        write_together(self.root, {self._path(sha256): packed for sha256, packed in fresh.items()})
        return len(fresh)

    def touch(self, sha256: str) -> bool:
        """Make an object young again, since something is about to name it; False if it is not there.

        One that is young stays as it is: web servers tell clients by its time whether it is the one that they began to read.
        """
        path = self._path(sha256)
        with storing(path):
            try:
                if path.stat().st_mtime < time.time() - YOUNG_S:
                    os.utime(path)
            except FileNotFoundError:
                return False
        return True

    def has(self, sha256: str) -> bool:
        """See `ObjectStore.has`."""
        return self._path(sha256).is_file()

    def open(self, sha256: str) -> BinaryIO:
        """See `ObjectStore.open`."""
        try:
            return self._path(sha256).open("rb")
        except OSError as error:
            raise RequestError(f"There is no object {sha256} in {self.root}.", code="not_found") from error

    def delete(self, sha256: str) -> bool:
        """See `ObjectStore.delete`."""
        path = self._path(sha256)
        with storing(path):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    def list(self) -> Iterator[StoredObject]:
        """See `ObjectStore.list`."""
        for path in self.root.glob("objects/[0-9a-f][0-9a-f]/*.zst"):
            name = path.name.removesuffix(".zst")
            if is_object_name(name):
                with contextlib.suppress(FileNotFoundError):
                    yield StoredObject(name, path.stat().st_size)

    def stored_at(self, sha256: str) -> float:
        """Unix seconds when the object came in; now if it has gone meanwhile."""
        try:
            return self._path(sha256).stat().st_mtime
        except FileNotFoundError:
            return time.time()

    def sweep(self) -> int:
        """Remove what interrupted uploads left; returns how many files. Not while uploads run."""
        return sweep(self.root / "objects")

    def _path(self, sha256: str) -> Path:
        if not is_object_name(sha256):
            raise RequestError(f"{sha256[:80]!r} is not the SHA-256 of an object.", code="request.object_name")
        return self.root / object_path(sha256)


def verified_as_it_passes(packed: Iterable[bytes], sha256: str, length: int) -> Iterator[bytes]:
    """The packed bytes, each piece once it is unpacked and hashed; the verdict falls before the last one is passed on.

    What clients would refuse is refused here too, though it unpacks to the right bytes: an object is never replaced, so whoever
    uploads a file first, padded beyond what clients read, would keep it from them for ever.
    """
    passed: list[bytes] = []

    def noted() -> Iterator[bytes]:
        start, came = b"", 0
        for piece in packed:
            came += len(piece)
            if came > largest_packed(length):
                raise TrustError(
                    f"An object of a file of {length} bytes has at most {largest_packed(length)} bytes.",
                    code="trust.endless_data",
                )
            if len(start) < FRAME_HEADER:
                start += piece[:FRAME_HEADER]
                if len(start) >= FRAME_HEADER:
                    check_frame(start, length)
            passed.append(piece)
            yield piece
        if len(start) < FRAME_HEADER:
            check_frame(start, length)

    for _ in verified(unpack(noted(), length, piece=BLOCK), sha256, length, "An upload"):
        yield from passed
        passed.clear()
    yield from passed


def verify_small(sha256: str, packed: bytes) -> None:
    """Check a whole object in memory. Raises as `ObjectStore.put`."""
    import zstandard  # noqa: PLC0415 - see objects

    if not is_object_name(sha256):
        raise RequestError(f"{sha256[:80]!r} is not the SHA-256 of an object.", code="request.object_name")
    try:
        length = zstandard.frame_content_size(packed[:FRAME_HEADER])
    except zstandard.ZstdError as error:
        raise TrustError("An object is not one zstd frame.", code="trust.content") from error
    if not 0 <= length <= MOST_SMALL or len(packed) > largest_packed(length):
        raise TrustError("A small object is not small, or does not say its length.", code="trust.endless_data")
    check_frame(packed[:FRAME_HEADER], length)
    try:
        plain = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompress(
            packed, max_output_size=length, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise TrustError(f"An object is not one zstd frame: {error}.", code="trust.content") from error
    if len(plain) != length or hashlib.sha256(plain).hexdigest() != sha256:
        raise TrustError(f"An upload gives other bytes than those of file {sha256}.", code="trust.content")


def verify_store(store: ObjectStore, lengths: dict[str, int]) -> list[str]:
    """Unpack and hash objects of a store again; those that are absent or damaged, by name.

    Args:
        lengths: Name to plain length, of the objects to look at.
    """
    damaged: list[str] = []
    for sha256, length in lengths.items():
        try:
            with store.open(sha256) as file:
                for _ in verified(unpack(pieces_of(file), length), sha256, length, "The store"):
                    pass
        except (RequestError, TrustError):
            damaged.append(sha256)
    return damaged
