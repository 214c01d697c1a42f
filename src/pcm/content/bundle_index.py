"""What a bundle says it holds: which units, made of which parts of which files.

Serves steps 5 and 8. `distribution.improving` writes bundles, `content.assembly` reads their indexes on the client and chooses
among them. A bundle carries no signature and is believed in nothing: an index is held against the manifests of both versions,
number by number, before anybody acts on it, and a file still counts only after its own SHA-256.

    bundle = head (16 bytes) + index (one zstd frame around msgpack) + units, back to back
    head   = b"PCMBNDL1" + u32 packed length of the index + u32 plain length of the index, big-endian

What follows from something else is not written down, so that it cannot be wrong: where a unit lies (they are back to back), where
a target begins (a file's pieces follow one another), how long a file is (its manifest says so). No network, no files, no zstd
here: the index is unpacked where nobody has rights (`unpacking.unpack_index`).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec

from pcm.model.errors import RequestError, TrustError
from pcm.model.package import PackageFile

MAGIC = b"PCMBNDL1"
HEAD_BYTES = 16
HEAD_GUESS = 64 * 1024  # bytes to ask for first: usually the whole index, of a small bundle everything
MAX_INDEX = 4 * 1024 * 1024  # bytes, packed and plain
MAX_PIECES = 500_000  # bases and targets of all units together
MAX_BASE = 24 * 1024 * 1024  # bytes of old files beside which one unit is unpacked
MAX_PLAIN = 8 * 1024 * 1024  # bytes that one unit unpacks to
SMALL_FILE = 64 * 1024  # bytes; files up to this length travel in the bundle of whole files
_KINDS: tuple["Kind", ...] = ("raw", "zstd", "bsdiff")
_HEAD = struct.Struct(">8sII")

Kind = Literal["raw", "zstd", "bsdiff"]


class Listing(NamedTuple):
    """One version: the SHA-256 of its manifest's bytes, and the manifest's files in their order."""

    sha256: str
    files: Sequence[PackageFile]


class Piece(NamedTuple):
    """Part of a file: its place in the manifest's list, the first byte, how many bytes."""

    file: int
    offset: int
    length: int


class Unit(NamedTuple):
    """What is unpacked in one go. `bases` are parts of old files, joined; `targets`, joined, are what comes out.

    `offset`: of its first byte in the bundle. `packed`: its bytes there. `whole`: packed bytes that its targets would cost as
    objects; a hint of whoever made the bundle. All bytes.
    """

    kind: Kind
    offset: int
    packed: int
    whole: int
    bases: tuple[Piece, ...]
    targets: tuple[Piece, ...]

    @property
    def plain(self) -> int:
        """Bytes that it unpacks to."""
        return joined(self.targets)

    @property
    def base(self) -> int:
        """Bytes of all its bases."""
        return joined(self.bases)


class BundleIndex(NamedTuple):
    """All units of a bundle, in the order in which they lie there. `old` is empty in a bundle of whole files.

    Every file that is in it is in it whole: its pieces follow one another, from its first byte to its last.
    """

    new: str
    old: str
    units: tuple[Unit, ...]

    @property
    def end(self) -> int:
        """Offset at which the bundle ends; 0 without units."""
        return self.units[-1].offset + self.units[-1].packed if self.units else 0


class Head(NamedTuple):
    """Length of the index in bytes, as it lies there and unpacked."""

    packed: int
    plain: int

    @property
    def end(self) -> int:
        """Offset of the first unit."""
        return HEAD_BYTES + self.packed


def bundle_path(new: str, old: str = "") -> str:
    """Where a bundle lies below a distribution server.

    Args:
        new: SHA-256 of the manifest that it leads to.
        old: That of the manifest that it starts from; empty for the bundle of whole files.
    """
    return f"bundles/{new[:2]}/{new}/{old or 'whole'}.bundle"


def largest_unit(plain: int) -> int:
    """The most bytes that a unit of `plain` bytes takes up (zstd's own bound, and room for headers)."""
    return plain + (plain >> 7) + 1024


def read_head(start: bytes) -> Head:
    """Read the first 16 bytes of a bundle.

    Raises:
        TrustError: `trust.content`: it is no bundle; `trust.endless_data`: its index is larger than any.
    """
    if len(start) < HEAD_BYTES:
        raise _wrong("it ends within its first 16 bytes")
    magic, packed, plain = _HEAD.unpack_from(start)
    if magic != MAGIC or not packed or not plain:
        raise _wrong("it does not begin like one")
    if packed > MAX_INDEX or plain > MAX_INDEX:
        raise TrustError(f"A bundle's index has more than {MAX_INDEX} bytes.", code="trust.endless_data")
    return Head(packed, plain)


def write_head(packed: int, plain: int) -> bytes:
    """The first 16 bytes of a bundle; see `Head`."""
    return _HEAD.pack(MAGIC, packed, plain)


_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_PIECES)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Step = Annotated[int, msgspec.Meta(ge=-(2**20), le=2**20)]
_Most = msgspec.Meta(max_length=MAX_PIECES)
_Hash = Annotated[bytes, msgspec.Meta(max_length=32)]


class _Columns(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """An index as it is written: one list for each thing, because alike numbers side by side pack well.

    `*_files` are steps from the file before; a length of 0 means 'to the end of that file'.
    """

    new: _Hash
    old: _Hash
    kinds: Annotated[bytes, _Most]
    packed: Annotated[list[_Bytes], _Most]
    whole: Annotated[list[_Bytes], _Most]
    base_counts: Annotated[list[_Count], _Most]
    target_counts: Annotated[list[_Count], _Most]
    target_files: Annotated[list[_Step], _Most]
    target_lengths: Annotated[list[_Bytes], _Most]
    base_files: Annotated[list[_Step], _Most]
    base_offsets: Annotated[list[_Bytes], _Most]
    base_lengths: Annotated[list[_Bytes], _Most]


_decoder = msgspec.msgpack.Decoder(_Columns)


def read_index(plain: bytes, head: Head, new: Listing, old: Listing | None) -> BundleIndex:
    """Read an unpacked index and hold it against the manifests.

    Args:
        plain: The index, unpacked.
        head: Of the same bundle.
        new: The version that the bundle is to lead to.
        old: The version that it starts from; None for the bundle of whole files.

    Returns:
        An index whose pieces all lie within their files, whose units keep to the limits of this module, and in which no file is
        named twice.

    Raises:
        TrustError: `trust.content`.
    """
    if len(plain) != head.plain:
        raise _wrong(f"its index has {len(plain)} bytes instead of {head.plain}")
    try:
        columns = _decoder.decode(plain)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _wrong(f"its index cannot be read: {error}") from error
    if columns.new.hex() != new.sha256 or columns.old.hex() != (old.sha256 if old else ""):
        raise _wrong("it is that of other versions")
    _check_counts(columns)
    targets = _targets(columns, new.files)
    bases = _bases(columns, old.files if old else ())
    units, offset = [], head.end
    for number, kind in enumerate(columns.kinds):
        unit = Unit(
            kind=_KINDS[kind],
            offset=offset,
            packed=columns.packed[number],
            whole=columns.whole[number],
            bases=_take(bases, columns.base_counts[number]),
            targets=_take(targets, columns.target_counts[number]),
        )
        _check_unit(unit)
        offset += unit.packed
        units.append(unit)
    if next(targets, None) or next(bases, None):  # asked to the end, where the last file's rest is looked for
        raise _wrong("its index names pieces of no unit")
    return BundleIndex(new.sha256, old.sha256 if old else "", tuple(units))


def write_index(new: Listing, old: Listing | None, units: Iterable[Unit]) -> bytes:
    """An index, not yet packed. Offsets are not written; the units lie back to back in this order.

    Raises:
        RequestError: `request.bundle`: an index that nobody would read.
    """
    units = list(units)
    targets = [piece for unit in units for piece in unit.targets]
    bases = [piece for unit in units for piece in unit.bases]
    plain = msgspec.msgpack.encode(
        _Columns(
            new=bytes.fromhex(new.sha256),
            old=bytes.fromhex(old.sha256) if old else b"",
            kinds=bytes(_KINDS.index(unit.kind) for unit in units),
            packed=[unit.packed for unit in units],
            whole=[unit.whole for unit in units],
            base_counts=[len(unit.bases) for unit in units],
            target_counts=[len(unit.targets) for unit in units],
            target_files=list(_steps(targets)),
            target_lengths=[_length(piece, new.files) for piece in targets],
            base_files=list(_steps(bases)),
            base_offsets=[piece.offset for piece in bases],
            base_lengths=[_length(piece, old.files if old else ()) for piece in bases],
        )
    )
    try:
        again = read_index(plain, Head(1, len(plain)), new, old).units
    except TrustError as error:
        raise RequestError(error.message, code="request.bundle") from error
    if len(plain) > MAX_INDEX or [unit[2:] for unit in again] != [unit[2:] for unit in units]:
        raise RequestError(f"An index of {len(plain)} bytes cannot be written.", code="request.bundle")
    return plain


def _steps(pieces: Iterable[Piece]) -> Iterator[int]:
    before = 0
    for piece in pieces:
        yield piece.file - before
        before = piece.file


def _length(piece: Piece, files: Sequence[PackageFile]) -> int:
    return 0 if piece.offset + piece.length == files[piece.file].length else piece.length


def _check_counts(columns: _Columns) -> None:
    units = len(columns.kinds)
    lists = (columns.packed, columns.whole, columns.base_counts, columns.target_counts)
    if any(len(each) != units for each in lists) or any(kind >= len(_KINDS) for kind in columns.kinds):
        raise _wrong("its index names units that are not all there")
    targets, bases = len(columns.target_files), len(columns.base_files)
    if targets + bases > MAX_PIECES or sum(columns.target_counts) != targets or sum(columns.base_counts) != bases:
        raise _wrong("its index names pieces that are not all there")
    if len(columns.target_lengths) != targets or not len(columns.base_offsets) == len(columns.base_lengths) == bases:
        raise _wrong("its index names pieces that are not all there")


def _targets(columns: _Columns, files: Sequence[PackageFile]) -> Iterator[Piece]:
    """The parts of new files. A file begins at its first byte, goes on without a gap, and is at its end before the next one."""
    seen: set[int] = set()
    file, offset, left = 0, 0, 0
    for step, told in zip(columns.target_files, columns.target_lengths, strict=True):
        file += step
        if left == 0:
            if not 0 <= file < len(files) or file in seen or files[file].length == 0:
                raise _wrong("its index names a file that is not there, or not again, or empty")
            seen.add(file)
            offset, left = 0, files[file].length
        elif step != 0:
            raise _wrong("its index breaks a file off")
        length = told or left
        if length > left:
            raise _wrong("its index goes beyond the end of a file")
        yield Piece(file, offset, length)
        offset, left = offset + length, left - length
    if left:
        raise _wrong("its index breaks a file off")


def _bases(columns: _Columns, files: Sequence[PackageFile]) -> Iterator[Piece]:
    file = 0
    for step, offset, told in zip(columns.base_files, columns.base_offsets, columns.base_lengths, strict=True):
        file += step
        if not 0 <= file < len(files) or offset >= files[file].length:
            raise _wrong("its index names an old file, or a part of one, that is not there")
        length = told or files[file].length - offset
        if offset + length > files[file].length:
            raise _wrong("its index goes beyond the end of an old file")
        yield Piece(file, offset, length)


def _take(pieces: Iterator[Piece], count: int) -> tuple[Piece, ...]:
    """The next `count` pieces, a few at a time: lists that do not add up were refused before."""
    return tuple(next(pieces) for _ in range(count))


def _check_unit(unit: Unit) -> None:
    plain, base = unit.plain, unit.base
    if not 0 < plain <= MAX_PLAIN or base > MAX_BASE:
        raise _wrong("a unit is empty, or too large")
    if not 0 < unit.packed <= largest_unit(plain):
        raise _wrong("a unit is larger than what it unpacks to")
    if (unit.kind == "raw" and (unit.bases or unit.packed != plain)) or (unit.kind == "bsdiff" and not unit.bases):
        raise _wrong(f"a unit of kind {unit.kind} is none")


def _wrong(why: str) -> TrustError:
    return TrustError(f"A bundle is not what it must be: {why}.", code="trust.content")


def joined(pieces: Sequence[Piece]) -> int:
    """Bytes of all pieces together."""
    return sum(piece.length for piece in pieces)
