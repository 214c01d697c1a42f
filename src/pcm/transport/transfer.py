"""The transfer process: the unprivileged program that speaks to networks for the PCM service.

Serves steps 6 (instructions), 8 (content) and 12 (status reports): started by `service.machine` under an account of its own
as `python -I -m pcm.transport.transfer`, it reads requests from standard input and answers on standard output (see
`framing`), one at a time, until its input ends. It alone parses HTTP, TLS, SMB and zstd; so a fault there is a fault in a process
that may not write files, start programs or read anything of the service's. It has no key of the client's, verifies no signature
and decides nothing. It imports only the standard library, zstandard when first asked to decode, and `smb` at the first share; an
account for shares it has from the question that brings it to its own end.

The service imports this module before it gives up its rights in the child. Where the account without rights could not read
the interpreter's libraries, everything that is usually imported on demand is imported here and then.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from pcm.model.errors import TransferError
from pcm.transport.decoding import DecodedAnswer
from pcm.transport.folder import open_file
from pcm.transport.framing import (
    MAX_ASK_LINE,
    Request,
    encode_end,
    encode_head,
    encode_hello,
    parse_request,
    parse_settings,
    transfer_error,
)
from pcm.transport.pace import Pace
from pcm.transport.smb_door import SharesDoor
from pcm.transport.web import Answer, Web

PIECE = 128 * 1024  # bytes in a frame


def serve(asks: BinaryIO, answer: Callable[[bytes], None], hardened: list[str]) -> None:
    """Answer requests until `asks` ends or says something unreadable.

    Args:
        asks: Buffered reader of the privileged side's lines and bodies.
        answer: Writes all of its bytes to the privileged side.
        hardened: Names of the protections in force, for the first line.

    Raises:
        TransferError: `transfer.protocol`: `asks` cannot be read on; the conversation is over.
    """
    first = asks.readline(MAX_ASK_LINE + 1)
    if not first:
        return
    web, shares = Web(parse_settings(first)), SharesDoor()
    answer(encode_hello(hardened))
    try:
        while line := asks.readline(MAX_ASK_LINE + 1):
            request_id, body_length, request = parse_request(line)
            body = asks.read(body_length)
            if len(body) != body_length:
                raise transfer_error("transfer.protocol", "The body of a request ended early.")
            _exchange(web, shares, request_id, request._replace(body=body), answer)
    finally:
        web.close()
        shares.close()


def _exchange(web: Web, shares: SharesDoor, request_id: int, request: Request, answer: Callable[[bytes], None]) -> None:
    try:
        opened = _open(web, shares, request)
    except TransferError as error:
        answer(encode_end(request_id, error))
        return
    try:
        answer(encode_head(request_id, opened.head))
        failure = _copy(opened, answer)
    finally:
        opened.close()
    answer(bytes(4) + encode_end(request_id, failure))


def _open(web: Web, shares: SharesDoor, request: Request) -> Answer:
    if request.url.startswith("file:"):
        opened: Answer = open_file(request)
    elif request.url.startswith("smb:"):
        opened = shares.open(request, Pace(request, time.monotonic()))
    else:
        opened = web.open(request, Pace(request, time.monotonic()))
    if request.decode is not None and opened.head.status == 200:
        return DecodedAnswer(opened, request.max_decoded_bytes)
    return opened


def _copy(opened: Answer, answer: Callable[[bytes], None]) -> TransferError | None:
    """Send the body in frames; an error ends it and is told in the trailer."""
    try:
        while data := opened.read(PIECE):
            answer(len(data).to_bytes(4, "big") + data)
    except TransferError as error:
        return error
    return None


ON_DEMAND = ("zstandard", "ssl", "encodings.idna", "pcm.transport.hardening")


def open_to_all(paths: Iterable[str]) -> bool:
    """Whether every account may look into these folders; those that do not exist do not count."""
    folders = {folder for path in paths for folder in (Path(path), *Path(path).parents)}
    return all(folder.stat().st_mode & 0o001 for folder in folders if folder.is_dir())


if os.geteuid() == 0 and not open_to_all(sys.path):
    for _name in ON_DEMAND:
        __import__(_name)
    with contextlib.suppress(ImportError):  # an extra, which may be missing
        __import__("pcm.transport.smb")


def main(_arguments: list[str] | None = None) -> int:
    """Run as a process. Exit code 0: the input ended; 70: the privileged side said something unreadable."""
    from pcm.transport.hardening import harden  # noqa: PLC0415 - not for `serve` inside another process

    asks, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # whatever a library may print must not get between the frames
    os.chdir("/")
    hardened = harden()

    def answer(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(answers, view) :]

    try:
        serve(os.fdopen(asks, "rb", 64 * 1024), answer, hardened)
    except TransferError as error:
        with contextlib.suppress(OSError):  # a log file cannot be written to any more
            sys.stderr.write(f"{error.message}\n")
        return 70
    except BrokenPipeError:
        return 0  # the privileged side has gone; nobody is left to tell
    return 0


if __name__ == "__main__":
    sys.exit(main())
