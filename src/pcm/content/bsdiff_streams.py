"""A unit of kind bsdiff: what it looks like, and how it is undone.

Serves step 8 through `unpacking`, and step 5 through `patches`. After Colin Percival's bsdiff ('Naive differences of executable
code', 2003): the new bytes are stretches of the old ones with small numbers added, and stretches that are new. Undoing it is
pure Python on purpose: nothing that a stranger writes can make it touch memory that is not its own, and most sums are of zeros.

    unit    = u32 count, three times (u8 codec, u32 packed length), then the streams; big-endian
    control = three columns of `count` 32-bit numbers: how many bytes of the base to take, how many new ones follow, and how far
              to go in the base then (signed)
    diff    = what to add to the bytes taken; as many as the first column adds up to
    extra   = the new bytes; as many as the second column adds up to
"""

import array
import bz2
import lzma
import struct
import sys
from collections.abc import Sequence

from pcm.content.bundle_index import largest_unit
from pcm.content.frames import undo_zstd, wrong
from pcm.model.errors import TrustError

RAW, ZSTD, BZ2, LZMA = range(4)
MAX_COUNT = 256 * 1024  # rows of the control stream
_LZMA_REACH = 4 * 1024 * 1024  # bytes that lzma looks back at most, and sets aside
_HEAD = struct.Struct(">IBIBIBI")
_ROW = 12
_PIECE = 16 * 1024  # bytes added at once: the numbers stay in the processor's cache
_LOW = int.from_bytes(b"\x7f" * _PIECE, "little")
_HIGH = int.from_bytes(b"\x80" * _PIECE, "little")


def lzma_filters(length: int = _LZMA_REACH) -> list[dict[str, int]]:
    """How a stream of `length` bytes is packed with lzma; what unpacks the longest unpacks every one."""
    reach = min(_LZMA_REACH, max(4096, 1 << (length - 1).bit_length()))
    return [{"id": lzma.FILTER_LZMA2, "dict_size": reach, "lc": 3, "lp": 0, "pb": 0}]


def write_streams(count: int, streams: Sequence[tuple[int, bytes]]) -> bytes:
    """Put a unit together.

    Args:
        count: Rows of the control stream.
        streams: Codec and packed bytes of control, diff and extra.
    """
    control, diff, extra = streams
    head = _HEAD.pack(count, control[0], len(control[1]), diff[0], len(diff[1]), extra[0], len(extra[1]))
    return b"".join((head, control[1], diff[1], extra[1]))


def undo(packed: bytes, base: bytes, plain_length: int) -> bytes:
    """The plain bytes of a unit.

    Raises:
        TrustError: `trust.content`, `trust.endless_data`.
    """
    control, diff, extra = _streams(packed, plain_length)
    plain = bytearray(plain_length)
    at = taken = new = place = 0
    for take, add, step in zip(*control, strict=True):
        if take > len(base) - place:
            raise wrong("it takes bytes from beyond the end of the old ones")
        _add(plain, at, base[place : place + take], diff[taken : taken + take])
        at, taken = at + take, taken + take
        plain[at : at + add] = extra[new : new + add]
        at, new, place = at + add, new + add, place + take + step
        if not 0 <= place <= len(base):
            raise wrong("it goes outside the old bytes")
    return bytes(plain)


def _add(plain: bytearray, at: int, old: bytes, diff: bytes) -> None:
    """Write old + diff, byte by byte modulo 256, into `plain` from `at` on."""
    if diff.count(0) == len(diff):
        plain[at : at + len(diff)] = old
        return
    for start in range(0, len(diff), _PIECE):
        piece = diff[start : start + _PIECE]
        size = len(piece)
        before = old[start : start + size]
        if piece.count(0) != size:
            # the low seven bits of each byte are added without a carry to the next byte, the high bits without any
            one, other = int.from_bytes(before, "little"), int.from_bytes(piece, "little")
            total = ((one & _LOW) + (other & _LOW)) ^ ((one ^ other) & _HIGH)
            before = total.to_bytes(size, "little")
        plain[at + start : at + start + size] = before


def _streams(packed: bytes, plain_length: int) -> tuple[list["array.array[int]"], bytes, bytes]:
    """Columns of the control stream, and the two others: together they make exactly `plain_length` bytes."""
    if len(packed) < _HEAD.size:
        raise wrong("it ends within its head")
    count, *told = _HEAD.unpack_from(packed)
    if not 0 < count <= min(MAX_COUNT, plain_length) or _HEAD.size + sum(told[1::2]) != len(packed):
        raise wrong("its head does not fit it")
    streams, start = [], _HEAD.size
    for length in told[1::2]:
        streams.append(packed[start : start + length])
        start += length
    control = _columns(_unpack(told[0], streams[0], count * _ROW), count)
    diff_length, extra_length = sum(control[0]), sum(control[1])
    if min(control[0]) < 0 or min(control[1]) < 0 or diff_length + extra_length != plain_length:
        code = "trust.endless_data" if diff_length + extra_length > plain_length else "trust.content"
        raise TrustError(f"A unit does not make the {plain_length} bytes that it should.", code=code)
    return control, _unpack(told[2], streams[1], diff_length), _unpack(told[4], streams[2], extra_length)


def _columns(plain: bytes, count: int) -> list["array.array[int]"]:
    columns = []
    for number in range(3):
        column = array.array("i", plain[number * count * 4 : (number + 1) * count * 4])
        if sys.byteorder == "little":
            column.byteswap()
        columns.append(column)
    return columns


def _unpack(codec: int, packed: bytes, length: int) -> bytes:
    """One stream: exactly `length` bytes, and never more while it is made."""
    if len(packed) > largest_unit(length) or (not length and packed):
        raise wrong("a stream is too long")
    if not length:
        return b""
    if codec == RAW:
        plain = packed
    elif codec == ZSTD:
        plain = undo_zstd(packed, b"", length)
    else:
        plain = _unpack_other(codec, packed, length)
    if len(plain) != length:
        raise wrong("a stream has another length")
    return plain


def _unpack_other(codec: int, packed: bytes, length: int) -> bytes:
    try:
        if codec == BZ2:
            return bz2.BZ2Decompressor().decompress(packed, length)
        if codec == LZMA:
            return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=lzma_filters()).decompress(packed, length)
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise wrong(f"a stream is damaged: {error}") from error
    raise wrong("a stream is packed in no way that there is")
