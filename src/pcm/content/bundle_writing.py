"""Writing a bundle: units made one after another, kept as they come, put together at the end.

Serves step 5: `distribution.improving` calls it with a plan of `patches`. Memory is that of a few units, whatever a package
weighs. Interrupted at any point, even by a power cut, it goes on after the last unit that was whole; what comes out is the same,
byte for byte. A file whose units are no smaller than its object stays out.
"""

import contextlib
import hashlib
import itertools
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from pcm.content.bundle_index import Kind, Listing, Piece, Unit, write_head, write_index
from pcm.content.patches import THOROUGH_LEVEL, Draft, Made, make_unit, pack_zstd
from pcm.content.whole_files import storing, write_whole
from pcm.model.package import PackageFile

RECIPE = "1"  # change it with anything that changes a unit's bytes: what is half made is then begun again
SPOOL_PREFIX = ".making-"
_KINDS: tuple[Kind, ...] = ("raw", "zstd", "bsdiff")
_RECORD = struct.Struct(">IBII")  # number of the draft, kind, length and CRC-32 of the bytes that follow
_COPY = 1024 * 1024
_LEAST_GAIN = 64  # a patch must save one part in so many of the object's bytes


class Source(Protocol):
    """Where the bytes of both versions' files come from."""

    def read(self, file: PackageFile) -> Iterator[bytes]:
        """Its plain bytes, verified when the end is reached."""

    def packed(self, file: PackageFile) -> int:
        """Bytes that it takes up as an object."""


class Written(NamedTuple):
    """Bytes of a bundle, and how many of its new files' bytes it makes."""

    length: int
    plain: int


def write_bundle(
    path: Path,
    new: Listing,
    old: Listing | None,
    drafts: Sequence[Draft],
    source: Source,
    *,
    thorough: bool = True,
    threads: int = 1,
    on_unit: Callable[[int], bool] | None = None,
) -> Written | None:
    """Make a bundle, or go on making it.

    Args:
        path: Its final name.
        drafts: Of `patches.plan_small` (with `old` None) or `plan_patches`.
        thorough: See `patches.make_unit`.
        threads: How many units are made at a time; each takes up to 300 MB.
        on_unit: Told the plain bytes of each unit when it is kept; False ends the work for now.

    Returns:
        What was written; None if it was ended before.

    Raises:
        StoreError, TrustError, RequestError: a file cannot be read or is damaged, or the bundle cannot be written.
    """
    spool = _Spool(path, _fingerprint(new, old, drafts, thorough=thorough))
    with contextlib.closing(spool):
        went_on = all(on_unit is None or on_unit(_plain(drafts[record.number])) for record in spool.records)
        if not went_on or not _make(spool, new, old, drafts, source, thorough, threads, on_unit):
            return None
        written = _put_together(path, spool, new, old, drafts, source)
    spool.remove()
    return written


def _fingerprint(new: Listing, old: Listing | None, drafts: Sequence[Draft], *, thorough: bool) -> bytes:
    digest = hashlib.sha256(f"{RECIPE} {new.sha256} {old.sha256 if old else ''} {thorough}".encode())
    for draft in drafts:
        digest.update(repr(tuple(map(tuple, (*draft.targets, (), *draft.bases, (), *draft.near)))).encode())
    return digest.digest()


def _plain(draft: Draft) -> int:
    return sum(piece.length for piece in draft.targets)


def _make(
    spool: "_Spool",
    new: Listing,
    old: Listing | None,
    drafts: Sequence[Draft],
    source: Source,
    thorough: bool,
    threads: int,
    on_unit: Callable[[int], bool] | None,
) -> bool:
    """Make all units that the spool lacks, in order, `threads` at a time; False if it was ended before."""
    targets = _Reader(source, new.files)
    bases = _Reader(source, old.files if old else ())
    waiting: deque[tuple[int, Future[Made]]] = deque()

    def keep() -> bool:
        number, future = waiting.popleft()
        spool.add(number, future.result())
        return on_unit is None or on_unit(_plain(drafts[number]))

    with ThreadPoolExecutor(threads) as pool:
        try:
            for number in range(len(spool.records), len(drafts)):
                draft = drafts[number]
                plain = b"".join(map(targets.read, draft.targets))
                base = b"".join(map(bases.read, draft.bases))
                future = pool.submit(_make_one, draft, plain, base, whole=old is None, thorough=thorough)
                waiting.append((number, future))
                if len(waiting) > threads and not keep():
                    return False
            while waiting:
                if not keep():
                    return False
        finally:
            for _, future in waiting:
                future.cancel()
    return True


def _make_one(draft: Draft, plain: bytes, base: bytes, *, whole: bool, thorough: bool) -> Made:
    if whole:
        packed = pack_zstd(plain, b"", THOROUGH_LEVEL)
        return Made("zstd", (), packed) if len(packed) < len(plain) else Made("raw", (), plain)
    near = base
    if draft.near != draft.bases:  # one stretch of one file, around the same place
        start = draft.near[0].offset - draft.bases[0].offset
        near = base[start : start + draft.near[0].length]
    return make_unit(draft, plain, base, near, thorough=thorough)


class _Reader:
    """Parts of files, mostly one after another: keeps what the next part may want of the same file, and no more."""

    def __init__(self, source: Source, files: Sequence[PackageFile]) -> None:
        self._source = source
        self._files = files
        self._file = -1
        self._pieces: Iterator[bytes] = iter(())
        self._start = 0
        self._held = bytearray()

    def read(self, piece: Piece) -> bytes:
        if piece.file != self._file or piece.offset < self._start:
            self._file, self._start, self._held = piece.file, 0, bytearray()
            self._pieces = self._source.read(self._files[piece.file])
        end = piece.offset + piece.length
        while self._start + len(self._held) < end:
            self._held += next(self._pieces)
            passed = min(piece.offset - self._start, len(self._held))
            if passed > 0:
                del self._held[:passed]
                self._start += passed
        if end == self._files[piece.file].length:
            for _ in self._pieces:  # nothing comes, but the verdict
                pass
        passed = piece.offset - self._start
        del self._held[:passed]
        self._start += passed
        return bytes(self._held[: piece.length])


class _Record(NamedTuple):
    """One unit in the spool."""

    number: int
    kind: Kind
    offset: int
    length: int


class _Spool:
    """Units as they come, in a file of their own beside the bundle. What a power cut spoiled is made again."""

    def __init__(self, path: Path, fingerprint: bytes) -> None:
        self._path = path.with_name(SPOOL_PREFIX + path.name)
        self.records: list[_Record] = []
        with storing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._file: BinaryIO = os.fdopen(descriptor, "r+b")
            try:
                self._go_on(fingerprint)
            except BaseException:
                self._file.close()
                raise

    def _go_on(self, fingerprint: bytes) -> None:
        end = len(fingerprint)
        if self._file.read(end) != fingerprint:
            self._file.seek(0)
            self._file.write(fingerprint)
        else:
            while (record := self._next(end)) is not None:
                self.records.append(record)
                end = record.offset + record.length
        self._file.seek(end)
        self._file.truncate()

    def _next(self, at: int) -> _Record | None:
        head = self._file.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return None
        number, kind, length, check = _RECORD.unpack(head)
        if number != len(self.records) or kind >= len(_KINDS):
            return None
        packed = self._file.read(length) if length <= _COPY * 32 else b""
        if len(packed) != length or zlib.crc32(packed) != check:
            return None
        return _Record(number, _KINDS[kind], at + _RECORD.size, length)

    def add(self, number: int, made: Made) -> None:
        head = _RECORD.pack(number, _KINDS.index(made.kind), len(made.packed), zlib.crc32(made.packed))
        with storing(self._path):
            offset = self._file.tell() + len(head)
            self._file.write(head + made.packed)
            self._file.flush()
        self.records.append(_Record(number, made.kind, offset, len(made.packed)))

    def read(self, record: _Record) -> Iterator[bytes]:
        self._file.seek(record.offset)
        left = record.length
        while left:
            piece = self._file.read(min(left, _COPY))
            left -= len(piece)
            yield piece

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        with storing(self._path):
            self._path.unlink(missing_ok=True)


def _put_together(
    path: Path, spool: _Spool, new: Listing, old: Listing | None, drafts: Sequence[Draft], source: Source
) -> Written:
    units: list[Unit] = []
    records: list[_Record] = []
    for _, group in itertools.groupby(spool.records, lambda record: drafts[record.number].targets[0].file):
        run = list(group)
        made = [_unit(record, drafts[record.number], new.files, source) for record in run]
        if old is None or _pays(made):
            units += made
            records += run
    index = write_index(new, old, units)
    packed = pack_zstd(index, b"", THOROUGH_LEVEL)
    start = write_head(len(packed), len(index)) + packed
    write_whole(path, itertools.chain((start,), *(spool.read(record) for record in records)))
    return Written(len(start) + sum(unit.packed for unit in units), sum(unit.plain for unit in units))


def _pays(units: Sequence[Unit]) -> bool:
    """Whether units cost clearly fewer bytes than the objects of their targets."""
    whole = sum(unit.whole for unit in units)
    return sum(unit.packed for unit in units) < whole - whole // _LEAST_GAIN


def _unit(record: _Record, draft: Draft, files: Sequence[PackageFile], source: Source) -> Unit:
    bases = {"raw": (), "zstd": draft.bases, "bsdiff": draft.near}[record.kind]
    return Unit(record.kind, 0, record.length, _whole(draft.targets, files, source), bases, draft.targets)


def _whole(targets: Iterable[Piece], files: Sequence[PackageFile], source: Source) -> int:
    """Bytes of the targets as objects; a part of a file counts by its length, and all parts together as the file."""
    total = 0
    for piece in targets:
        file = files[piece.file]
        packed = source.packed(file)
        total += packed * (piece.offset + piece.length) // file.length - packed * piece.offset // file.length
    return total
