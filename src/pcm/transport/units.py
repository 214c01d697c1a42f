"""Unpacking what is here already, on the unprivileged side: units of bundles, indexes, objects.

Serves step 8, inside the transfer process, below `transfer`. Everything is read from open files that came with the question, and
bounded before a byte is allocated. What goes wrong in a decoder, goes wrong here.
"""

import os
from collections.abc import Iterator

from pcm.model.errors import TransferError, TrustError
from pcm.transport.answers import EXTENT, NO_MORE
from pcm.transport.asks import Asks
from pcm.transport.decoding import READ, FilePart, Frame, Packed
from pcm.transport.framing import MAX_BASES, MAX_UNIT_PACKED, STREAMED, Unpacking, transfer_error

_CODES = {"trust.endless_data": "transfer.too_long"}


class Unpacked:
    """The plain bytes of one question; an `Answer` without a head.

    Args:
        asks: Where its extents come from, which are all read whatever they are.

    Raises:
        TransferError: `transfer.damaged`, `transfer.too_long`; `transfer.protocol`: the conversation is over.
    """

    def __init__(self, asks: Asks, unpacking: Unpacking) -> None:
        self._left = unpacking.plain_length
        packed, base, failure = (-1, 0, 0), bytearray(), None
        for extent in _extents(asks):
            if packed[0] < 0:
                packed = extent
            else:
                failure = _read_base(base, *extent) if failure is None else failure
                os.close(extent[0])  # the rest of what was said must be heard whatever is wrong
        self._file = packed[0]
        if self._file < 0:
            raise transfer_error("transfer.protocol", "Nothing came to be unpacked.")
        try:
            self._body = self._open(unpacking, FilePart(*packed), packed[2], base, failure)
        except BaseException:
            self.close()
            raise

    def _open(
        self, unpacking: Unpacking, packed: FilePart, length: int, base: bytearray, failure: TransferError | None
    ) -> Packed:
        if failure is not None:
            raise failure
        if unpacking.kind == "raw":
            if length != unpacking.plain_length:
                raise transfer_error("transfer.damaged", "A unit has another length than its plain bytes.")
            return packed
        if unpacking.kind in STREAMED:
            return Frame(packed, unpacking.plain_length)
        return _Whole(_unpack_unit(unpacking, _whole_of(packed, length), base))

    def read_into(self, buffer: memoryview) -> int:
        """See `ranges.Answer.read_into`."""
        count = self._body.read_into(buffer)
        self._left -= count
        if not count and self._left:
            raise transfer_error("transfer.damaged", f"What was unpacked is {self._left} bytes short.")
        return count

    def close(self) -> None:
        """Close the packed file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Whole:
    """Bytes that are in memory already; `Packed`."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def read_into(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _extents(asks: Asks) -> Iterator[tuple[int, int, int]]:
    while (head := asks.read(EXTENT.size)) != NO_MORE:
        if len(head) != EXTENT.size:
            raise transfer_error("transfer.protocol", "What is to be unpacked ended early.")
        yield asks.take_file(), *EXTENT.unpack(head)


def _read_base(base: bytearray, file: int, offset: int, length: int) -> TransferError | None:
    """Add a stretch of a file to the base; what is wrong with it, or None."""
    if len(base) + length > MAX_BASES:
        return transfer_error("transfer.too_long", f"A unit has more than {MAX_BASES} bytes of bases.")
    part, buffer = FilePart(file, offset, length), memoryview(bytearray(min(length, READ)))
    try:
        while count := part.read_into(buffer):
            base += buffer[:count]
    except TransferError as error:
        return error
    return None


def _whole_of(packed: FilePart, length: int) -> bytes:
    if length > MAX_UNIT_PACKED:
        raise transfer_error("transfer.too_long", f"A unit of {length} bytes is too large.")
    data = bytearray(length)
    came, view = 0, memoryview(data)
    while came < length:
        came += packed.read_into(view[came:])
    return bytes(data)


def _unpack_unit(unpacking: Unpacking, packed: bytes, base: bytearray) -> bytes:
    from pcm.content.unpacking import unpack_unit  # noqa: PLC0415 - decoders that only patches need

    try:
        return unpack_unit(unpacking.kind, packed, base, unpacking.plain_length)  # type: ignore[arg-type] # any buffer
    except TrustError as error:
        raise transfer_error(_CODES.get(error.code, "transfer.damaged"), error.message) from error
    except MemoryError as error:
        raise transfer_error("transfer.damaged", "A unit takes more memory to unpack than there is for it.") from error
