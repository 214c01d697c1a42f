r"""What the transfer process answers: lines and frames.

Serves steps 6, 8 and 12: the way back of `framing`. Both sides import this module and neither believes the other: each line has a
largest size, each field a type and a range, each frame a largest length. It does no I/O, and never raises anything but
`TransferError` for what came from the other side.

The conversation goes over one channel that carries descriptors too, strictly one request at a time:

    asks      {"configure": {...}}\n                                        once, first
    answers   {"hello": 1, "hardened": [...]}\n                             once
    asks      {"id": 1, "method": "GET", "url": ..., ...}\n  + body_length bytes; with a part also a descriptor to read it by
    answers   {"id": 1, "status": 200, "headers": {...}, "kept": 0}\n       or {"id": 1, "error": code, "message": text}\n
              (4-byte big-endian head, that many bytes)*, head 0         the highest bit of a head: packed bytes for the part
              {"id": 1, "ok": true}\n                                       or {"id": 1, "error": code, "message": text}\n
    asks      {"id": 2, "unpack": kind, "packed": n, "plain": n}\n + extents (`EXTENT`), the packed one and each base with its
              descriptor, a nameless one at the end
    answers   as above
"""

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from pcm.model.errors import TransferError
from pcm.transport.framing import MAX_MESSAGE, is_count, parse_line, printable, transfer_error, write_line

MAX_ANSWER_LINE = 8 * 1024  # head and trailer lines
MAX_FRAME = 256 * 1024
FOR_PART = 1 << 31  # in a frame's head
EXTENT = struct.Struct(">QQ")  # offset and length; both all ones: no more come
NO_MORE = EXTENT.pack((1 << 64) - 1, (1 << 64) - 1)
KEPT_HEADERS = frozenset(
    (
        "content-length",
        "content-range",
        "content-type",
        "date",
        "etag",
        "last-modified",
        "location",
        "pcm-wake",
        "retry-after",
    )
)
MAX_HEADER_VALUE = 512


class Head(NamedTuple):
    """What is known of an answer before its body.

    Attributes:
        headers: Those of `KEPT_HEADERS`, names in lower case.
        kept: How many of the bytes that the request `have`s the body goes on from; 0: it begins anew.
    """

    status: int
    headers: Mapping[str, str]
    kept: int = 0


def encode_hello(hardened: list[str]) -> bytes:
    """The transfer process's first line: which protections it could put on itself."""
    return write_line({"hello": 1, "hardened": hardened})


def parse_hello(line: bytes) -> tuple[str, ...]:
    """Read the first answer.

    Returns:
        The names of the protections that hold.

    Raises:
        TransferError: `transfer.protocol`.
    """
    given = parse_line(line)
    hardened = given.get("hardened")
    if given.get("hello") != 1 or not isinstance(hardened, list) or len(hardened) > 32:
        raise transfer_error("transfer.protocol", "The transfer process did not introduce itself.")
    return tuple(printable(str(name), 40) for name in hardened)


def encode_head(request_id: int, head: Head) -> bytes:
    """The line before the body; headers that nobody asks for stay behind."""
    kept = {
        name: printable(value, MAX_HEADER_VALUE)
        for name, value in head.headers.items()
        if name in KEPT_HEADERS and value.isascii()
    }
    return write_line({"id": request_id, "status": head.status, "headers": kept, "kept": head.kept})


def encode_end(request_id: int, error: TransferError | None = None) -> bytes:
    """The line after the body, or instead of everything when nothing could be fetched."""
    if error is None:
        return write_line({"id": request_id, "ok": True})
    return write_line({"id": request_id, "error": error.code, "message": printable(error.message, MAX_MESSAGE)})


def parse_head(line: bytes, request_id: int) -> Head:
    """Read the line before the body.

    Raises:
        TransferError: with the code that the transfer process gives, or `transfer.protocol` for nonsense.
    """
    given = parse_line(line)
    _check_turn(given, request_id)
    status, headers = given.get("status"), given.get("headers")
    more = given.get("kept", 0)
    if (
        not is_count(status)
        or not 200 <= int(str(status)) <= 599
        or not isinstance(headers, dict)
        or not is_count(more)
    ):
        raise transfer_error("transfer.protocol", "The transfer process sent a head without a status.")
    kept = {
        name: value
        for name, value in headers.items()
        if name in KEPT_HEADERS and isinstance(value, str) and len(value) <= MAX_HEADER_VALUE and value.isprintable()
    }
    return Head(int(str(status)), kept, int(str(more)))


def parse_end(line: bytes, request_id: int) -> None:
    """Read the line after the body; returns when all is well.

    Raises:
        TransferError: as `parse_head`.
    """
    given = parse_line(line)
    _check_turn(given, request_id)
    if given.get("ok") is not True:
        raise transfer_error("transfer.protocol", "The transfer process ended a body without saying how.")


def _check_turn(given: Mapping[str, Any], request_id: int) -> None:
    if given.get("id") != request_id or isinstance(given.get("id"), bool):
        raise transfer_error("transfer.protocol", "The transfer process answered another question than the one asked.")
    if "error" in given:
        code, message = given["error"], given.get("message")
        if not isinstance(code, str) or not isinstance(message, str):
            raise transfer_error("transfer.protocol", "The transfer process reported an error without a code.")
        raise transfer_error(code, message)
