"""What a peer's server understands of HTTP: three requests, byte ranges, and nothing more. Pure.

Serves step 8, below `server`.
"""

import re

from pcm.peers.wire import FILES, HAVE, MAX_ASKED, NAME

MAX_HEAD = 2048
_FIRST = re.compile(rb"(GET|HEAD) %s([0-9a-f]{64}) HTTP/1\.1\Z|(POST) %s HTTP/1\.1\Z" % (FILES.encode(), HAVE.encode()))
_RANGE = re.compile(rb"bytes=([0-9]{1,18})-([0-9]{0,18})\Z")
_LENGTH = re.compile(rb"[0-9]{1,9}\Z")


class Question:
    """One request.

    Attributes:
        method: b'GET', b'HEAD' or b'POST'.
        name: The hash asked for (32 bytes); empty for a POST.
        body: Length of what follows the head.
        first, last: Range of bytes asked for; `first` -1: everything, `last` -1: to the end.
        stays: The connection is kept.
    """

    __slots__ = ("body", "first", "last", "method", "name", "stays")

    def __init__(self, method: bytes, name: bytes) -> None:
        self.method = method
        self.name = name
        self.body = 0
        self.first = self.last = -1
        self.stays = True


class Refused(Exception):  # noqa: N818 - an answer, not a mistake
    """A request that is not understood; `status` is the answer to it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def parse_head(data: bytes) -> tuple[Question, int] | None:
    """Read a request's head; None: more has to come.

    Returns:
        The question, and the length of the head.

    Raises:
        Refused: 400, 404, 413, 431: it is something else, or too long.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0:
        if len(data) >= MAX_HEAD:
            raise Refused(431)
        return None
    first, *lines = data[:end].split(b"\r\n")
    found = _FIRST.match(first)
    if found is None:
        raise Refused(404)
    question = Question(found[1] or found[3], bytes.fromhex(found[2].decode()) if found[2] else b"")
    for line in lines:
        _take(question, line)
    if question.method == b"POST":
        if not question.body or question.body % NAME or question.body > MAX_ASKED * NAME:
            raise Refused(413)
    elif question.body:
        raise Refused(400)
    return question, end + 4


def _take(question: Question, line: bytes) -> None:
    name, colon, value = line.partition(b":")
    if not colon or not name or name != name.strip():
        raise Refused(400)
    name, value = name.lower(), value.strip(b" \t")
    if name == b"content-length":
        if not _LENGTH.match(value) or question.body:
            raise Refused(400)
        question.body = int(value)
    elif name in (b"transfer-encoding", b"expect", b"upgrade"):
        raise Refused(400)
    elif name == b"connection":
        question.stays = value.lower() != b"close"
    elif name == b"range":
        found = _RANGE.match(value)
        if found:  # another form of range may be answered with everything (RFC 9110, section 14.2)
            question.first, question.last = int(found[1]), int(found[2]) if found[2] else -1


def extent(question: Question, length: int) -> tuple[int, int, int]:
    """Status, first byte and number of bytes of the answer about a file of `length` bytes."""
    if question.first < 0:
        return 200, 0, length
    last = length - 1 if question.last < 0 else min(question.last, length - 1)
    if question.first > last:
        return 416, 0, 0
    return 206, question.first, last - question.first + 1


_REASONS = {200: "OK", 206: "Partial Content", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large"}
_REASONS |= {416: "Range Not Satisfiable", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


def encode_head(status: int, length: int, *, stays: bool, more: str = "") -> bytes:
    """An answer's head. `more`: whole header lines, each with its line end."""
    kept = "keep-alive" if stays else "close"
    wait = "Retry-After: 1\r\n" if status == 503 else ""
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {length}\r\nConnection: {kept}\r\n{wait}{more}\r\n"
    ).encode()
