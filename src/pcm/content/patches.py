"""Making the units of bundles: which parts of which files go together, and how they are packed best.

Serves step 5, in the background of publishing: `bundle_writing` reads the bytes, `unpacking` undoes on clients what is made here.
Plans are pure functions of two listings, units pure functions of their bytes: the same versions always give the same bundle.
Nothing is held but one unit's bytes and tables, however large the files are.

Files over 4 MiB are cut into segments, each made from the old data around the same place, so that neither side ever needs much
memory; small ones are packed many to a unit, beside their old versions, because they are like one another.
"""

import bz2
import itertools
import lzma
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pcm.content import bsdiff_streams
from pcm.content.base_finding import changed_files, find_bases
from pcm.content.bundle_index import MAX_PIECES, SMALL_FILE, Kind, Listing, Piece
from pcm.content.unpacking import unpack_unit
from pcm.model.errors import TrustError

SEGMENT = 4 * 1024 * 1024  # bytes of a new file that one unit makes
AROUND = 8 * 1024 * 1024  # bytes of the old file before and after the same place that zstd sees
NEAR = 4 * 1024 * 1024  # the same for bsdiff, which takes 17 bytes of memory for each
SOLID_FILE = 256 * 1024  # files up to this length share units
GROUP = 2 * 1024 * 1024  # bytes of new files in a shared unit
TABLE_LOG = 24  # 64 MiB for a table of zstd; 2**27 entries gain 0.1 %
LEVEL = 12
THOROUGH_LEVEL = 19
THOROUGH_BYTES = 8 * 1024 * 1024  # of base and target; beyond, level 19 costs more time than it gains bytes
_LEAST_GAIN = 512  # a patch of fewer bytes is good enough
_HOPELESS = 0.98  # what zstd leaves of random bytes


class Draft(NamedTuple):
    """A unit before it is made. `near`: the part of `bases` that bsdiff sees (all of them, if they are few bytes)."""

    targets: tuple[Piece, ...]
    bases: tuple[Piece, ...]
    near: tuple[Piece, ...]


class Made(NamedTuple):
    """A unit's kind, the bases that it needs, and its bytes."""

    kind: Kind
    bases: tuple[Piece, ...]
    packed: bytes


def plan_small(new: Listing) -> list[Draft]:
    """The bundle of whole files: those up to 64 KiB, each content once, alike ones side by side."""
    first: dict[str, int] = {}
    for number, file in enumerate(new.files):
        if 0 < file.length <= SMALL_FILE:
            first.setdefault(file.sha256, number)
    order = sorted(first.values(), key=lambda number: (_ending(new.files[number].path), number))
    groups = _grouped(order, lambda number: new.files[number].length)
    return _within_limits(Draft(tuple(Piece(n, 0, new.files[n].length) for n in group), (), ()) for group in groups)


def plan_patches(new: Listing, old: Listing) -> list[Draft]:
    """Units that make the changed files of `new` from `old`; large new files that are like none of the old ones are left out."""
    base_of = find_bases(new, old)
    small: list[int] = []
    large: list[int] = []
    for number in changed_files(new, old):
        length = new.files[number].length
        if length <= (SOLID_FILE if number in base_of else SMALL_FILE):
            small.append(number)
        elif number in base_of:
            large.append(number)
    drafts = (_shared(group, new, old, base_of) for group in _grouped(small, lambda n: new.files[n].length))
    segments = (draft for number in large for draft in _segments(number, base_of[number], new, old))
    return _within_limits(itertools.chain(drafts, segments))


def _ending(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[2] if "." in name else ""


def _grouped(numbers: Iterable[int], length: Callable[[int], int]) -> Iterator[list[int]]:
    group: list[int] = []
    size = 0
    for number in numbers:
        if group and size + length(number) > GROUP:
            yield group
            group, size = [], 0
        group.append(number)
        size += length(number)
    if group:
        yield group


def _shared(group: Sequence[int], new: Listing, old: Listing, base_of: dict[int, int]) -> Draft:
    """Small files together, beside their old versions; an old file many times longer than its new one gives its beginning."""
    bases: dict[int, Piece] = {}
    for number in group:
        if number in base_of:
            base = base_of[number]
            bases.setdefault(base, Piece(base, 0, min(old.files[base].length, 2 * SOLID_FILE)))
    pieces = tuple(itertools.takewhile(_Room(2 * SEGMENT), bases.values()))
    return Draft(tuple(Piece(number, 0, new.files[number].length) for number in group), pieces, pieces)


class _Room:
    """Says of one piece after another whether it still fits."""

    def __init__(self, left: int) -> None:
        self._left = left

    def __call__(self, piece: Piece) -> bool:
        self._left -= piece.length
        return self._left >= 0


def _segments(number: int, base: int, new: Listing, old: Listing) -> Iterator[Draft]:
    length, before = new.files[number].length, old.files[base].length
    for start in range(0, length, SEGMENT):
        end = min(start + SEGMENT, length)
        # the same place, as far as lengths tell
        at, until = start * before // length, end * before // length
        target = (Piece(number, start, end - start),)
        yield Draft(target, (_around(base, at, until, before, AROUND),), (_around(base, at, until, before, NEAR),))


def _around(base: int, start: int, end: int, length: int, more: int) -> Piece:
    """Old data around a place: at most a segment and `more` on either side."""
    first = max(0, start - more)
    last = min(length, end + more, first + SEGMENT + 2 * more)
    return Piece(base, first, last - first)


def _within_limits(drafts: Iterable[Draft]) -> list[Draft]:
    """As many drafts as an index may name; files beyond travel as objects."""
    kept: list[Draft] = []
    pieces = 0
    for draft in drafts:
        pieces += len(draft.targets) + len(draft.bases)
        if pieces > MAX_PIECES:
            last = draft.targets[0].file
            while kept and any(piece.file == last for piece in kept[-1].targets):
                kept.pop()
            break
        kept.append(draft)
    return kept


def make_unit(draft: Draft, plain: bytes, base: bytes, near: bytes, *, thorough: bool) -> Made:
    """Pack a unit in the way that takes the fewest bytes.

    Args:
        plain: The targets, joined.
        base: `draft.bases`, joined.
        near: `draft.near`, joined.
        thorough: Also try level 19 and bsdiff, at about 1 MB a second.
    """
    best = Made("zstd", draft.bases, pack_zstd(plain, base, LEVEL))
    if thorough and len(best.packed) > _LEAST_GAIN:
        if len(plain) + len(base) <= THOROUGH_BYTES:
            best = min(best, Made("zstd", draft.bases, pack_zstd(plain, base, THOROUGH_LEVEL)), key=_size)
        if near and len(best.packed) < len(plain) * _HOPELESS:
            other = pack_bsdiff(plain, near)
            if other is not None:
                best = min(best, Made("bsdiff", draft.near, other), key=_size)
    return min(best, Made("raw", (), plain), key=_size)


def _size(made: Made) -> int:
    return len(made.packed)


def pack_zstd(plain: bytes, base: bytes, level: int) -> bytes:
    """One frame with `base` as raw prefix. The tables span both, within bounds: their size matters more than the level."""
    import zstandard  # noqa: PLC0415 - most commands pack nothing

    log = max(10, (len(base) + len(plain)).bit_length() + 1)
    table = min(log, TABLE_LOG)
    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=log, hash_log=table, chain_log=table)
    prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if base else None
    return zstandard.ZstdCompressor(dict_data=prefix, compression_params=parameters).compress(plain)


def pack_bsdiff(plain: bytes, base: bytes) -> bytes | None:
    """Three streams (see `bsdiff_streams`), or None where they cannot be written or would not come back."""
    import bsdiff4.core  # noqa: PLC0415 - for sites alone

    rows, diff, extra = bsdiff4.core.diff(base, plain)
    numbers = [_signed(number) for number in struct.unpack(f"<{len(rows) // 8}Q", rows)]
    count = len(numbers) // 3
    if not 0 < count <= bsdiff_streams.MAX_COUNT:
        return None
    numbers[-1] = 0  # where the last row goes to nobody wants to know, and it may be outside
    control = b"".join(struct.pack(f">{count}i", *numbers[column::3]) for column in range(3))
    packed = bsdiff_streams.write_streams(count, [_smallest(control), _smallest(diff), _smallest(extra)])
    try:
        return packed if unpack_unit("bsdiff", packed, base, len(plain)) == plain else None
    except TrustError:
        return None


def _signed(number: int) -> int:
    """Colin Percival's format: the highest bit says that the rest is negative."""
    return -(number & ~(1 << 63)) if number >> 63 else number


def _smallest(plain: bytes) -> tuple[int, bytes]:
    """Codec and bytes of a stream."""
    ways = [(bsdiff_streams.RAW, plain)]
    if plain:
        filters = bsdiff_streams.lzma_filters(len(plain))
        ways.append((bsdiff_streams.LZMA, lzma.compress(plain, lzma.FORMAT_RAW, filters=filters)))
        ways.append((bsdiff_streams.BZ2, bz2.compress(plain, 9)))
    return min(ways, key=lambda way: len(way[1]))
