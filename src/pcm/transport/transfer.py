"""The transfer process: the unprivileged program that speaks to networks for the PCM service.

Serves steps 6 (instructions), 8 (content) and 12 (status reports): started by `service.machine` under an account of its own as
`python -I -m pcm.transport.start`, it hears requests and gives answers over one socket (see `answers`), one at a time, until
its input ends. It alone parses HTTP, TLS, SMB, zstd and patches; so a fault there is a fault in a process that may not write
files, start programs or read anything of the service's but the open files that come with a question. It has no key of the
client's, verifies no signature and decides nothing. It imports only the standard library, zstandard when first asked to
decode, and `smb` at the first share; an account for shares it has from the question that brings it to its own end.

The service imports this module before it gives up its rights in the child. Where the account without rights could not read
the interpreter's libraries, everything that is usually imported on demand is imported here and then.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from pcm.model.errors import TransferError
from pcm.transport.answers import FOR_PART, Head, encode_end, encode_head, encode_hello
from pcm.transport.asks import Asks, SocketAsks
from pcm.transport.brake import Brake
from pcm.transport.decoding import Continued, DecodedAnswer, FilePart
from pcm.transport.folder import open_file
from pcm.transport.framing import (
    MAX_ASK_LINE,
    Request,
    Settings,
    Unpacking,
    parse_request,
    parse_settings,
    parse_unpacking,
    transfer_error,
)
from pcm.transport.pace import Pace
from pcm.transport.ranges import Answer, open_range
from pcm.transport.smb_door import SharesDoor
from pcm.transport.units import Unpacked
from pcm.transport.web import Web

PIECE = 128 * 1024  # bytes in a frame
AHEAD = 256 * 1024  # bytes that wait for the privileged side at most, where the system allows so many

Say = Callable[[bytes, memoryview], None]
"""Sends both, one after the other, to the privileged side."""

_NOTHING = memoryview(b"")


def serve(asks: Asks, say: Say, hardened: list[str], give_way: Callable[[], None] = lambda: None) -> None:
    """Answer requests until `asks` ends or says something unreadable.

    Args:
        hardened: Names of the protections in force, for the first line.
        give_way: Lets all other work on this computer go first, from now on.

    Raises:
        TransferError: `transfer.protocol`: `asks` cannot be read on; the conversation is over.
    """
    first = asks.readline(MAX_ASK_LINE + 1)
    if not first:
        return
    places = _Places(parse_settings(first), give_way)
    say(encode_hello(hardened), _NOTHING)
    try:
        while line := asks.readline(MAX_ASK_LINE + 1):
            unpacking = parse_unpacking(line)
            if unpacking is not None:
                _unpack(asks, say, *unpacking)
                continue
            request_id, body_length, request = parse_request(line)
            if request.part is not None:
                request = request._replace(part=asks.take_file())
            body = asks.read(body_length)
            if len(body) != body_length:
                raise transfer_error("transfer.protocol", "The body of a request ended early.")
            try:
                _exchange(places, request_id, request._replace(body=body), say)
            finally:
                if request.part is not None:
                    os.close(request.part)
    finally:
        places.close()


class _Places:
    """Every kind of server, with what is open to it."""

    def __init__(self, settings: Settings, give_way: Callable[[], None]) -> None:
        self._web, self._shares, self._brake = Web(settings), SharesDoor(), Brake()
        self._give_way = give_way

    def open(self, request: Request) -> Answer:
        if request.background:
            self._give_way()
        pace = Pace(request, time.monotonic(), self._brake)
        if request.url.startswith("file:"):
            return open_range(request, lambda asked: open_file(asked, pace))
        if request.url.startswith("smb:"):
            return open_range(request, lambda asked: self._shares.open(asked, pace))
        return open_range(request, lambda asked: self._web.open(asked, pace))

    def close(self) -> None:
        self._web.close()
        self._shares.close()


def _exchange(places: _Places, request_id: int, request: Request, say: Say) -> None:
    def for_part(data: memoryview) -> None:
        say((len(data) | FOR_PART).to_bytes(4, "big"), data)

    try:
        answer = places.open(request)
        status = answer.head.status
        if request.decode is not None and request.part is not None and status in (200, 206):
            # the head goes first: with it the part is cut to what is kept, before anything is appended to it
            say(encode_head(request_id, answer.head), _NOTHING)
            here = FilePart(request.part, 0, answer.head.kept)
            _tell(
                request_id,
                say,
                lambda: DecodedAnswer(answer, request.max_decoded_bytes, Continued(here, answer, for_part)),
            )
            return
        if request.decode is not None and status == 200:
            answer = DecodedAnswer(answer, request.max_decoded_bytes)
    except TransferError as error:
        say(encode_end(request_id, error), _NOTHING)
        return
    say(encode_head(request_id, answer.head), _NOTHING)
    _tell(request_id, say, lambda: answer)


class _Body(Protocol):
    """What is sent."""

    def read_into(self, buffer: memoryview) -> int: ...

    def close(self) -> None: ...


def _unpack(asks: Asks, say: Say, request_id: int, unpacking: Unpacking) -> None:
    try:
        unpacked = Unpacked(asks, unpacking)
    except TransferError as error:
        if error.code == "transfer.protocol":
            raise
        say(encode_end(request_id, error), _NOTHING)
        return
    say(encode_head(request_id, Head(200, {})), _NOTHING)
    _tell(request_id, say, lambda: unpacked)


def _tell(request_id: int, say: Say, opened: Callable[[], _Body]) -> None:
    """Send the body in frames; an error ends it and is told in the trailer."""
    failure = None
    try:
        body = opened()
        try:
            buffer = memoryview(bytearray(PIECE))
            while count := body.read_into(buffer):
                say(count.to_bytes(4, "big"), buffer[:count])
        finally:
            body.close()
    except TransferError as error:
        failure = error
    say(bytes(4) + encode_end(request_id, failure), _NOTHING)


ON_DEMAND = (
    "zstandard",
    "ssl",
    "encodings.idna",
    "pcm.transport.hardening",
    "pcm.transport.tls",
    "pcm.content.unpacking",
)


def open_to_all(paths: Iterable[str]) -> bool:
    """Whether every account may look into these folders; those that do not exist do not count."""
    folders = {folder for path in paths for folder in (Path(path), *Path(path).parents)}
    return all(folder.stat().st_mode & 0o001 for folder in folders if folder.is_dir())


if os.geteuid() == 0 and not open_to_all(sys.path):
    for _name in ON_DEMAND:
        __import__(_name)
    with contextlib.suppress(ImportError):  # an extra, which may be missing
        __import__("pcm.transport.smb")
        __import__("encodings.utf_16_le")  # which it speaks


def main(arguments: list[str] | None = None) -> int:
    """Run as a process.

    Args:
        arguments: The number of the open socket to the privileged side; none: standard input.

    Returns:
        Exit code 0: the input ended; 70: the privileged side said something unreadable.
    """
    from pcm.transport.hardening import give_way, harden  # noqa: PLC0415 - not for `serve` inside another process

    sock = socket.socket(fileno=os.dup(int(arguments[0]) if arguments else 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, AHEAD)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):  # whatever a library may print goes nowhere
        os.dup2(nothing, standard)
    if arguments:
        os.close(int(arguments[0]))
    os.chdir("/")
    hardened = harden()
    asks = SocketAsks(sock)
    try:
        serve(asks, saying(sock), hardened, give_way)
    except TransferError as error:
        with contextlib.suppress(OSError):  # a log file cannot be written to any more
            sys.stderr.write(f"{error.message}\n")
        return 70
    except ConnectionError:
        return 0  # the privileged side has gone; nobody is left to tell
    return 0


def saying(sock: socket.socket) -> Say:
    """What sends over a socket."""

    def say(head: bytes, data: memoryview) -> None:
        sent = sock.sendmsg((head, data), (), socket.MSG_NOSIGNAL)
        if sent < len(head):
            sock.sendall(head[sent:], socket.MSG_NOSIGNAL)
            sent = len(head)
        while sent < len(head) + len(data):
            sent += sock.send(data[sent - len(head) :], socket.MSG_NOSIGNAL)

    return say


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
