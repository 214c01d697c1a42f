"""Decoding zstd on the unprivileged side, within bounds.

Serves step 8, inside the transfer process, between `transfer` and an answer of `web`, `smb` or `folder`, or a file that is here
already. One frame per object; the window, the output and what follows the frame are limited, so that a few bytes cannot become a
full memory.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pcm.model.errors import TransferError
from pcm.transport.answers import Head
from pcm.transport.framing import transfer_error

if TYPE_CHECKING:
    import zstandard

    from pcm.transport.ranges import Answer

MAX_WINDOW = 16 * 1024 * 1024  # bytes; level 19 uses 8 MiB
READ = 128 * 1024
_MAGIC = b"\x28\xb5\x2f\xfd"  # skippable frames have others
_HEADER = 18  # the longest frame header, RFC 8878, section 3.1.1.1


class Packed(Protocol):
    """Packed bytes, read by read."""

    def read_into(self, buffer: memoryview) -> int:
        """See `ranges.Answer.read_into`."""


class FilePart:
    """A stretch of an open file, which stays the caller's.

    Args:
        length: Bytes; fewer are an error.
    """

    def __init__(self, file: int, offset: int, length: int) -> None:
        self._file, self._at, self._left = file, offset, length

    def read_into(self, buffer: memoryview) -> int:
        """See `ranges.Answer.read_into`."""
        if not self._left:
            return 0
        try:
            count = os.preadv(self._file, [buffer[: self._left]], self._at)
        except (OSError, OverflowError) as error:
            raise transfer_error("transfer.damaged", f"What is here already cannot be read: {error}.") from error
        if not count:
            raise transfer_error("transfer.damaged", "What is here already is shorter than it was said to be.")
        self._at += count
        self._left -= count
        return count


class Continued:
    """First what is here already, then what comes, of which `tell` hears before it is used."""

    def __init__(self, here: Packed, coming: Packed, tell: Callable[[memoryview], None]) -> None:
        self._here: Packed | None = here
        self._coming = coming
        self._tell = tell

    def read_into(self, buffer: memoryview) -> int:
        """See `ranges.Answer.read_into`."""
        if self._here is not None:
            if count := self._here.read_into(buffer):
                return count
            self._here = None
        count = self._coming.read_into(buffer)
        if count:
            self._tell(buffer[:count])
        return count


class _Pulled:
    """The `read(n)` that the decoder pulls from, with the first bytes put back after a look at them."""

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        self._buffer = memoryview(bytearray(READ))
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        while len(self._ahead) < count and (came := self._packed.read_into(self._buffer)):
            self._ahead += self._buffer[:came]
        return self._ahead

    def read(self, most: int = -1) -> bytes | memoryview:
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        # the decoder is done with what it got the last time when it asks for more
        return self._buffer[: self._packed.read_into(self._buffer if most < 0 else self._buffer[:most])]


class Frame:
    """The decoded bytes of one zstd frame.

    Args:
        packed: The frame, and nothing after it.
        most: Largest decoded length in bytes.

    Raises:
        TransferError: `transfer.damaged`: not a zstd frame, or a window over 16 MiB; `transfer.too_long`.
    """

    def __init__(self, packed: Packed, most: int) -> None:
        self._most = most
        self._came = 0
        self._packed = _Pulled(packed)
        self._promised, self._reader = self._start()

    def _start(self) -> "tuple[int | None, zstandard.ZstdDecompressionReader]":
        import zstandard  # noqa: PLC0415 - 9 ms that polls do not need

        self._failure = zstandard.ZstdError
        start = self._packed.peek(_HEADER)
        try:
            parameters = zstandard.get_frame_parameters(start)
        except zstandard.ZstdError as error:
            raise transfer_error("transfer.damaged", "The server's object is not a zstd frame.") from error
        if not start.startswith(_MAGIC):
            raise transfer_error("transfer.damaged", "The server's object begins with something to be skipped.")
        if parameters.window_size > MAX_WINDOW:
            raise transfer_error("transfer.damaged", "The server's object needs too large a window to decode.")
        unknown = parameters.content_size >= (1 << 64) - 2  # ZSTD_CONTENTSIZE_UNKNOWN, _ERROR
        if not unknown and parameters.content_size > self._most:
            raise transfer_error(
                "transfer.too_long",
                f"The object has {parameters.content_size} bytes; at most {self._most} are accepted.",
            )
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        reader = decoder.stream_reader(self._packed, read_size=READ)  # type: ignore[arg-type] # only `read` is used
        return (None if unknown else parameters.content_size), reader

    def read_into(self, buffer: memoryview) -> int:
        """See `ranges.Answer.read_into`."""
        try:
            count = self._reader.readinto(buffer)
        except self._failure as error:
            raise transfer_error("transfer.damaged", f"The server's object is damaged: {error}.") from error
        self._came += count
        if self._came > self._most:
            raise transfer_error("transfer.too_long", f"The object has more than the {self._most} bytes that it may.")
        if not count:
            self._check_end()
        return count

    def _check_end(self) -> None:
        if self._promised is not None and self._came != self._promised:
            raise transfer_error("transfer.damaged", f"The object ends after {self._came} of {self._promised} bytes.")
        if self._packed.read():
            raise transfer_error("transfer.damaged", "Something follows the server's object.")


class DecodedAnswer:
    """The decoded body of an answer whose body is one zstd frame, or the rest of one; an `Answer`.

    Args:
        answer: The encoded answer, owned from now on.
        most: Largest decoded length in bytes.
        packed: What to decode instead of its body alone.

    Raises:
        TransferError: as `Frame`; `transfer.changed` where what was here already may be to blame.
    """

    def __init__(self, answer: "Answer", most: int, packed: Packed | None = None) -> None:
        self._answer = answer
        headers = {name: value for name, value in answer.head.headers.items() if name != "content-length"}
        self.head = Head(answer.head.status, headers, answer.head.kept)
        try:
            with _Blaming(answer.head.kept):
                self._frame = Frame(packed or answer, most)
        except BaseException:
            answer.close()
            raise

    def read_into(self, buffer: memoryview) -> int:
        """See `ranges.Answer.read_into`."""
        with _Blaming(self.head.kept):
            return self._frame.read_into(buffer)

    def close(self) -> None:
        """See `ranges.Answer.close`."""
        self._answer.close()


class _Blaming:
    """Of a frame in two halves, nobody knows which one is wrong, nor whether both are and do not fit."""

    def __init__(self, kept: int) -> None:
        self._kept = kept

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._kept and isinstance(error, TransferError) and error.code in ("transfer.damaged", "transfer.too_long"):
            raise transfer_error(
                "transfer.changed",
                f"What came now does not go on from the {self._kept} bytes that were here: {error.message}",
            ) from error
