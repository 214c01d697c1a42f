"""Asking servers for bytes, from the privileged side, by way of the transfer process.

Serves step 6 (`service.inbox`, `trust`'s fetcher), step 8 (`steps/fetch`, `content.assembly`) and step 12
(`service.outbox`). Below it: a `Channel` to a process that `service.machine` starts. It believes that process nothing:
lines, frames, totals and times are limited here again, and whatever breaks the rules costs the process its channel. It
parses no HTTP and decodes nothing; that the bytes are the right ones is for `trust` and `content` to find out. The process
gets open files for reading only: everything that is written, this side writes.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator

from pcm.model.errors import RequestError, TransferError
from pcm.transport.answers import EXTENT, NO_MORE, Head, parse_head
from pcm.transport.channel import Channel
from pcm.transport.conversation import Conversation
from pcm.transport.framing import (
    MAX_BASES,
    MAX_UNIT_PACKED,
    STREAMED,
    Request,
    Settings,
    Unpacking,
    encode_request,
    encode_unpacking,
    transfer_error,
)
from pcm.transport.response import Response, append, empty
from pcm.transport.source import Extent, Fetched, Source

__all__ = ["Response", "Source", "TransferClient", "code_of_status"]

GRACE_S = 5.0  # how much longer than the request's own limit the transfer process may take to say that time is up
UNPACK_S, UNPACK_RATE = 60.0, 512 * 1024  # what unpacking may take: seconds, and bytes a second besides
_PROGRESS_S = 0.2
_IF = ("if-range",)


class TransferClient:
    """Fetches by way of a transfer process, one request at a time. Not for several threads at once.

    A `source.ContentSource`.

    Args:
        open_channel: Starts a transfer process and returns the way to it. Called at the first request, and again after a
            process was given up (nonsense, time-out, a body not read to its end).
        settings: Certificate authorities and proxy.

    Example:
        client = TransferClient(machine.start_transfer, Settings())
        with client.fetch(Request(url, max_bytes=4096, total_s=20)) as response:
            if response.status == 304: ...
            data = response.read()
    """

    def __init__(self, open_channel: Callable[[], Channel], settings: Settings = Settings()) -> None:  # noqa: B008 - immutable
        self._open_channel = open_channel
        self._settings = settings
        self._conversation: Conversation | None = None
        self._count = 0

    def fetch(self, request: Request) -> Response:
        """Ask, and raise for every answer that brings nothing.

        Returns:
            The response: 2xx, 304, or a 4xx that says what was wrong with the request (not 401, 403, 404, 408, 410, 429).

        Raises:
            TransferError: `transfer.refused` (401, 403: this client's key), `transfer.not_found` (404, 410),
                `transfer.server_error` (5xx, 408, 429), and all that `exchange` raises.
            RequestError: as `exchange`.
        """
        response = self.exchange(request)
        code = code_of_status(response.status)
        if code is None:
            return response
        raise transfer_error(code, f"{request.url} answered with status {response.status}{response.reason()}.")

    def exchange(self, request: Request) -> Response:
        """Ask, and return whatever status the server gives.

        Raises:
            TransferError: `transfer.unreachable`, `.certificate`, `.timeout`, `.too_slow`, `.too_long`, `.truncated`,
                `.redirected`, `.no_ranges`, `.protocol` (also: the transfer process itself misbehaves).
            RequestError: `request.transfer`: the request cannot be sent as it is.
        """
        if request.part is not None:
            request = _going_on(request, os.fstat(request.part).st_size)
        self._count += 1
        asked = encode_request(self._count, request)
        deadline = time.monotonic() + request.total_s + GRACE_S
        conversation = self._ready(deadline)
        conversation.busy = True
        with _costing(conversation):
            if request.part is None:
                conversation.channel.write(asked, deadline - time.monotonic())
            else:
                conversation.channel.send_file(asked, request.part, deadline - time.monotonic())
            line = conversation.read_line(deadline)
        head = self._head(conversation, line)
        if head.kept not in (0, request.have):
            conversation.abandon()
            raise transfer_error("transfer.protocol", "The transfer process goes on from where nobody was.")
        if head.status == 304 and not any(name.lower() == "if-none-match" for name in request.headers):
            # whoever has nothing to compare with is not told 'nothing new': so a server could keep a client still for ever
            conversation.abandon()
            raise transfer_error("transfer.protocol", f"{request.url} says 'not changed' without having been asked.")
        if request.part is not None and head.status in (200, 206):
            with _costing(conversation):
                empty(request.part, head.kept)
        return Response(conversation, request, self._count, head, deadline)

    def fetch_into(self, request: Request, part: int, on_progress: Callable[[int], None] | None = None) -> Fetched:
        """See `source.ContentSource.fetch_into`."""
        here = os.fstat(part).st_size
        if request.length and here >= request.length:
            empty(part, request.length)
            return Fetched(206, None, 0, request.total or None)
        if here > request.max_bytes:
            here = 0
        with self.fetch(_going_on(request, here)) as response:
            if response.status not in (200, 206):
                if response.status == 304:
                    return Fetched(304, response.etag, 0, None)
                raise transfer_error("transfer.truncated", f"{request.url} has nothing at byte {request.offset}.")
            empty(part, response.kept)
            came, told = 0, time.monotonic()
            for data in response.iter_bytes():
                append(part, data)
                came += len(data)
                if on_progress is not None and (now := time.monotonic()) - told >= _PROGRESS_S:
                    told = now
                    on_progress(response.kept + came)
        if on_progress is not None:
            on_progress(response.kept + came)
        return Fetched(206 if response.kept else response.status, response.etag, came, response.total)

    def unpack(self, kind: str, packed: Extent, bases: Iterable[Extent], plain_length: int) -> Iterator[bytes]:
        """See `source.ContentSource.unpack`."""
        self._count += 1
        asked = encode_unpacking(self._count, Unpacking(kind, plain_length))
        if kind not in STREAMED and packed.length > MAX_UNIT_PACKED:
            raise RequestError(f"A unit of {packed.length} packed bytes is too large.", code="request.transfer")
        deadline = time.monotonic() + UNPACK_S + (packed.length + plain_length) / UNPACK_RATE
        conversation = self._ready(deadline)
        conversation.busy = True
        with _costing(conversation):
            conversation.channel.write(asked, deadline - time.monotonic())
            left = MAX_BASES
            for number, extent in enumerate(_all_of(packed, bases)):
                left -= extent.length if number else 0
                if left < 0:
                    raise RequestError(f"A unit has more than {MAX_BASES} bytes of bases.", code="request.transfer")
                stretch = EXTENT.pack(extent.offset, extent.length)
                conversation.channel.send_file(stretch, extent.descriptor, deadline - time.monotonic())
            conversation.channel.write(NO_MORE, deadline - time.monotonic())
            line = conversation.read_line(deadline)
        head = self._head(conversation, line)
        # a request that was never sent, for the limits and the name that errors give
        limits = Request("file:///what-is-unpacked", max_bytes=plain_length)
        with Response(conversation, limits, self._count, head, deadline) as response:
            came = 0
            for data in response.iter_bytes():
                came += len(data)
                yield data
        if came != plain_length:
            conversation.abandon()
            raise transfer_error("transfer.protocol", "The transfer process unpacked less than it said.")

    def protections(self) -> tuple[str, ...]:
        """Start the transfer process if need be, and ask which protections it has put on itself (see `hardening.harden`).

        Raises:
            TransferError: it cannot be started, or does not introduce itself.
        """
        return self._ready(time.monotonic() + GRACE_S).protections

    def close(self) -> None:
        """End the transfer process."""
        if self._conversation is not None:
            self._conversation.abandon()
            self._conversation = None

    def _ready(self, deadline: float) -> Conversation:
        current = self._conversation
        if current is not None and current.busy:
            current.abandon()
        if current is None or not current.usable:
            current = self._conversation = Conversation(self._open_channel())
            current.begin(self._settings, deadline)
        return current

    def _head(self, conversation: Conversation, line: bytes) -> Head:
        try:
            return parse_head(line, self._count)
        except TransferError as error:
            conversation.settle(error)  # an error instead of a head is the whole answer
            raise


class _costing:  # noqa: N801 - reads as a verb
    """Whatever goes wrong within costs the conversation."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._conversation.abandon()


def _all_of(packed: Extent, bases: Iterable[Extent]) -> Iterator[Extent]:
    yield packed
    yield from bases


def _going_on(request: Request, here: int) -> Request:
    """The request for what is not here yet. Without anything here, there is nothing that could have changed since."""
    if here:
        return request._replace(have=here)
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _IF}
    return request._replace(have=0, headers=headers)


def code_of_status(status: int) -> str | None:
    """The error code that an HTTP status stands for; None for those that a caller can use."""
    if status in (401, 403):
        return "transfer.refused"
    if status in (404, 410):
        return "transfer.not_found"
    if status in (408, 425, 429) or status >= 500:
        return "transfer.server_error"
    return None
