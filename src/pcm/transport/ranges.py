"""Asking for a part of a file, and going on with one, whatever the server makes of it.

Serves steps 6 and 8, inside the transfer process, between `transfer` and the ways to servers. A server may know no ranges, may
have another file by now, or may say that there is nothing left; each comes out as one of two things: the bytes go on from those
that are here, or they begin anew. A part of a part, several at once, or another one than was asked for is refused.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from pcm.model.errors import TransferError
from pcm.transport.answers import Head
from pcm.transport.framing import Request, transfer_error

MAX_SKIP = 64 * 1024 * 1024  # bytes that are read past at most where a server knows no ranges
_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)\Z")
_PIECE = 128 * 1024


class Answer(Protocol):
    """What a server answered: the head at once, the body read by read."""

    head: Head

    def read_into(self, buffer: memoryview) -> int:
        """Put bytes into `buffer` as soon as there are any; 0 at the end.

        Raises:
            TransferError: the body did not arrive as promised.
        """

    def close(self) -> None:
        """Let go of what is open; a body not read to its end costs the connection."""


class Told(NamedTuple):
    """A Content-Range field: first and last byte, length of the whole file if told. `first` -1: no range, only the length."""

    first: int
    last: int
    total: int | None


def parse_content_range(text: str) -> Told | None:
    """Read a Content-Range field (RFC 9110, section 14.4); None: it is none, or impossible."""
    match = _RANGE.match(text) if text.isascii() else None
    if match is None:
        return None
    first, last, total = match.groups()
    length = None if total == "*" else int(total)
    if first is None:
        return None if length is None else Told(-1, -1, length)
    told = Told(int(first), int(last), length)
    return None if told.last < told.first or (length is not None and told.last >= length) else told


def range_field(request: Request) -> str | None:
    """The Range field for a request; None: it asks for the whole file."""
    first = request.offset + request.have
    if not first and not request.length:
        return None
    return f"bytes={first}-{request.offset + request.length - 1}" if request.length else f"bytes={first}-"


def check_range(request: Request, head: Head) -> int:
    """Check the head of a 206, and return how many bytes are to come.

    Raises:
        TransferError: `transfer.protocol`: it is not the range that was asked for, to its end or the file's.
    """
    told = parse_content_range(head.headers.get("content-range", ""))
    first = request.offset + request.have
    if told is None or told.first != first or range_field(request) is None:
        raise transfer_error("transfer.protocol", "The server sent another range than the one asked for.")
    last = request.offset + request.length - 1 if request.length else None
    ends = [each for each in (last, None if told.total is None else told.total - 1) if each is not None]
    if (ends and told.last != min(ends)) or (last is not None and told.last > last):
        raise transfer_error("transfer.protocol", "The server sent only some of the range that it was asked for.")
    return told.last - told.first + 1


def open_range(request: Request, opened: Callable[[Request], Answer]) -> Answer:
    """Open what `request` asks for.

    Args:
        opened: Asks a server once; its 206 has passed `check_range`.

    Raises:
        TransferError: as `opened`; `transfer.no_ranges`: what comes before is too much to be read past.
    """
    answer = opened(request)
    status = answer.head.status
    told = parse_content_range(answer.head.headers.get("content-range", ""))
    if status == 206 and request.have:
        if request.total and told is not None and told.total not in (None, request.total):
            return _anew(request, answer, opened)
        answer.head = answer.head._replace(kept=request.have)
    elif status == 416 and request.have:
        if told is None or told.total != request.offset + request.have or request.total not in (0, told.total):
            return _anew(request, answer, opened)
        answer.close()
        return NothingMore(Head(206, answer.head.headers, request.have))
    elif status == 200 and range_field(request) is not None:
        asked = any(name.lower() == "if-range" for name in request.headers)
        if asked and request.have and (request.offset or request.length):
            return _anew(request, answer, opened)  # it has changed, which is no reason to read past what comes before
        return _cut_out(request, answer)
    return answer


def _anew(request: Request, answer: Answer, opened: Callable[[Request], Answer]) -> Answer:
    answer.close()
    headers = {name: value for name, value in request.headers.items() if name.lower() != "if-range"}
    return open_range(request._replace(have=0, total=0, headers=headers), opened)


def _cut_out(request: Request, answer: Answer) -> Answer:
    """The range out of a whole file."""
    if not request.offset and not request.length:
        return answer  # it is what was asked for, from its start
    if request.offset > MAX_SKIP:
        answer.close()
        raise transfer_error(
            "transfer.no_ranges",
            f"The server of {request.url} sends whole files only, and this one is too large for that.",
        )
    try:
        return CutOut(answer, request)
    except BaseException:
        answer.close()
        raise


class NothingMore:
    """An answer without a body."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def read_into(self, _buffer: memoryview) -> int:
        """See `Answer.read_into`."""
        return 0

    def close(self) -> None:
        """See `Answer.close`."""


class CutOut:
    """The range that was asked for, out of the answer with the whole file, owned from now on."""

    def __init__(self, answer: Answer, request: Request) -> None:
        self._answer = answer
        length = answer.head.headers.get("content-length", "")
        total = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
        self._left, self._came = request.length or 1 << 62, 0
        skipped, scratch = 0, memoryview(bytearray(_PIECE))
        while skipped < request.offset:
            count = answer.read_into(scratch[: request.offset - skipped])
            if not count:
                raise _ended()
            skipped += count
        headers = {name: value for name, value in answer.head.headers.items() if name != "content-length"}
        if total is not None and total > request.offset:
            last = min(total, request.offset + self._left) - 1
            headers["content-range"] = f"bytes {request.offset}-{last}/{total}"
        self.head = Head(206, headers)

    def read_into(self, buffer: memoryview) -> int:
        """See `Answer.read_into`."""
        count = self._answer.read_into(buffer[: min(self._left, len(buffer))]) if self._left else 0
        if not count and not self._came:
            raise _ended()
        self._came += count
        self._left -= count
        return count

    def close(self) -> None:
        """See `Answer.close`."""
        self._answer.close()


def _ended() -> TransferError:
    return transfer_error("transfer.truncated", "The server's file ends before the range that was asked for.")
