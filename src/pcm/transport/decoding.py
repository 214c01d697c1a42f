"""Decoding zstd on the unprivileged side, within bounds.

Serves step 8, inside the transfer process, between `transfer` and an answer of `web` or `folder`. One frame per object; the
window, the output and what follows the frame are limited, so that a few bytes cannot become a full memory.
"""

from typing import TYPE_CHECKING

from pcm.transport.framing import Head, transfer_error

if TYPE_CHECKING:
    import zstandard

    from pcm.transport.web import Answer

MAX_WINDOW = 16 * 1024 * 1024  # bytes; level 19 uses 8 MiB
_READ = 64 * 1024


class _Encoded:
    """The `read(n)` that the decoder pulls from, with the first bytes put back after a look at them."""

    def __init__(self, answer: "Answer") -> None:
        self._answer = answer
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        while len(self._ahead) < count and (data := self._answer.read(_READ)):
            self._ahead += data
        return self._ahead

    def read(self, most: int = -1) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        return self._answer.read(_READ if most < 0 else most)


class DecodedAnswer:
    """The decoded body of an answer whose body is one zstd frame; an `Answer`.

    Args:
        answer: The encoded answer, owned from now on.
        most: Largest decoded length in bytes.

    Raises:
        TransferError: `transfer.damaged`: not a zstd frame, or a window over 16 MiB; `transfer.too_long`.
    """

    def __init__(self, answer: "Answer", most: int) -> None:
        self._answer = answer
        self._most = most
        self._came = 0
        headers = {name: value for name, value in answer.head.headers.items() if name != "content-length"}
        self.head = Head(answer.head.status, headers)
        try:
            self._encoded = _Encoded(answer)
            self._promised, self._reader = self._start()
        except BaseException:
            answer.close()
            raise

    def _start(self) -> "tuple[int | None, zstandard.ZstdDecompressionReader]":
        import zstandard  # noqa: PLC0415 - 9 ms that polls do not need

        self._failure = zstandard.ZstdError
        start = self._encoded.peek(18)  # the longest frame header, RFC 8878, section 3.1.1.1
        try:
            parameters = zstandard.get_frame_parameters(start)
        except zstandard.ZstdError as error:
            raise transfer_error("transfer.damaged", "The server's object is not a zstd frame.") from error
        if parameters.window_size > MAX_WINDOW:
            raise transfer_error("transfer.damaged", "The server's object needs too large a window to decode.")
        unknown = parameters.content_size >= (1 << 64) - 2  # ZSTD_CONTENTSIZE_UNKNOWN, _ERROR
        if not unknown and parameters.content_size > self._most:
            raise transfer_error(
                "transfer.too_long",
                f"The object has {parameters.content_size} bytes; at most {self._most} are accepted.",
            )
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        reader = decoder.stream_reader(self._encoded, read_size=_READ)  # type: ignore[arg-type] # only `read` is used
        return (None if unknown else parameters.content_size), reader

    def read(self, most: int) -> bytes:
        """See `web.Answer.read`."""
        try:
            data = self._reader.read(most)
        except self._failure as error:
            raise transfer_error("transfer.damaged", f"The server's object is damaged: {error}.") from error
        self._came += len(data)
        if self._came > self._most:
            raise transfer_error("transfer.too_long", f"The object has more than the {self._most} bytes that it may.")
        if not data:
            self._check_end()
        return data

    def _check_end(self) -> None:
        if self._promised is not None and self._came != self._promised:
            raise transfer_error("transfer.damaged", f"The object ends after {self._came} of {self._promised} bytes.")
        if self._encoded.read():
            raise transfer_error("transfer.damaged", "Something follows the server's object.")

    def close(self) -> None:
        """See `web.Answer.close`."""
        self._answer.close()
