"""Asking servers for bytes, from the privileged side, by way of the transfer process.

Serves step 6 (`service.inbox`, `trust`'s fetcher), step 8 (`steps/fetch`, `content.assembly`) and step 12
(`service.outbox`). Below it: a `Channel` to a process that `service.machine` starts. It believes that process nothing:
lines, frames, totals and times are limited here again, and whatever breaks the rules costs the process its channel. It
parses no HTTP and decodes nothing; that the bytes are the right ones is for `trust` and `content` to find out.
"""

import json
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

from pcm.model.errors import TransferError
from pcm.transport.channel import Channel
from pcm.transport.framing import (
    MAX_ANSWER_LINE,
    MAX_FRAME,
    Head,
    Request,
    Settings,
    encode_request,
    encode_settings,
    parse_end,
    parse_head,
    parse_hello,
    printable,
    transfer_error,
)

GRACE_S = 5.0  # how much longer than the request's own limit the transfer process may take to say that time is up
MAX_REASON, MAX_SHOWN = 4096, 200  # of a server's own words: bytes looked at, characters shown
_TEXTS = ("application/json", "application/problem+json", "text/plain")


class Source(Protocol):
    """Whatever answers requests; `TransferClient` is the one real implementation, over a process or a thread."""

    def fetch(self, request: Request) -> "Response":
        """See `TransferClient.fetch`."""


class Response:
    """An answer: its status at once, its body as it comes. A context manager; read it to the end or close it.

    Attributes:
        status: 200, 206 (a range), 304 (not changed), or a 4xx that `fetch` leaves to its caller (400, 409, 422 ...).
        headers: Names in lower case: etag, content-length, content-type, date, last-modified, retry-after.
    """

    def __init__(
        self, conversation: "_Conversation", request: Request, request_id: int, head: Head, deadline: float
    ) -> None:
        self._conversation = conversation
        self._request_id = request_id
        self._deadline = deadline
        self._most = request.max_decoded_bytes if request.decode else request.max_bytes
        self._ended = False
        self.url = request.url
        self.status = head.status
        self.headers = head.headers

    @property
    def etag(self) -> str | None:
        """The entity tag, to be sent as If-None-Match the next time."""
        return self.headers.get("etag")

    def iter_bytes(self) -> Iterator[bytes]:
        """The body in pieces of at most 1 MiB, as they come.

        Raises:
            TransferError: the body did not arrive as promised; what came until then may be kept for a resume.
        """
        came = 0
        while not self._ended:
            try:
                data = self._next(came)
            except BaseException:
                self._ended = True
                raise
            came += len(data)
            if data:
                yield data

    def _next(self, came: int) -> bytes:
        """One frame; at the last one, the line after it is read too, and the conversation is free for the next request."""
        try:
            length = self._frame_length(came)
            if length:
                return self._conversation.read_exactly(length, self._deadline)
            line = self._conversation.read_line(self._deadline)
        except BaseException:
            self._conversation.abandon()
            raise
        self._ended = True
        try:
            parse_end(line, self._request_id)
        except TransferError as error:
            self._conversation.settle(error)
            raise
        self._conversation.settle()
        return b""

    def _frame_length(self, came: int) -> int:
        length = int.from_bytes(self._conversation.read_exactly(4, self._deadline), "big")
        if length > MAX_FRAME:
            raise transfer_error("transfer.protocol", "The transfer process sent too large a frame.")
        if came + length > self._most:
            raise transfer_error("transfer.too_long", f"{self.url} sent more than the {self._most} bytes that it may.")
        return length

    def read(self) -> bytes:
        """The whole body, at most `max_bytes` (or `max_decoded_bytes`) long.

        Raises:
            TransferError: as `iter_bytes`.
        """
        return b"".join(self.iter_bytes())

    def reason(self) -> str:
        """What a server that refuses says itself, for people: one line after a colon, or nothing. It changes nothing."""
        said = b""
        try:
            with self:
                for data in self.iter_bytes():
                    said += data[:MAX_REASON]
                    if len(said) > 64 * 1024:
                        break
        except TransferError:
            return ""
        if not self.headers.get("content-type", "").startswith(_TEXTS):
            return ""
        text = printable(_unpack(said[:MAX_REASON].decode("utf-8", "replace")).strip(), MAX_SHOWN)
        return f": {text}" if text else ""

    def close(self) -> None:
        """Stop here. A body not read to its end costs the transfer process, which is started again when needed."""
        if not self._ended:
            self._ended = True
            self._conversation.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TransferClient:
    """Fetches by way of a transfer process, one request at a time. Not for several threads at once.

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
        self._conversation: _Conversation | None = None
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
                `.redirected`, `.protocol` (also: the transfer process itself misbehaves).
            RequestError: `request.transfer`: the request cannot be sent as it is.
        """
        self._count += 1
        asked = encode_request(self._count, request)
        deadline = time.monotonic() + request.total_s + GRACE_S
        conversation = self._ready(deadline)
        conversation.busy = True
        try:
            conversation.channel.write(asked, deadline - time.monotonic())
            line = conversation.read_line(deadline)
        except BaseException:
            conversation.abandon()
            raise
        try:
            head = parse_head(line, self._count)
        except TransferError as error:
            conversation.settle(error)  # an error instead of a head is the whole answer
            raise
        if head.status == 304 and not any(name.lower() == "if-none-match" for name in request.headers):
            # whoever has nothing to compare with is not told 'nothing new': so a server could keep a client still for ever
            conversation.abandon()
            raise transfer_error("transfer.protocol", f"{request.url} says 'not changed' without having been asked.")
        return Response(conversation, request, self._count, head, deadline)

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

    def _ready(self, deadline: float) -> "_Conversation":
        current = self._conversation
        if current is not None and current.busy:
            current.abandon()
        if current is None or not current.usable:
            current = self._conversation = _Conversation(self._open_channel())
            current.begin(self._settings, deadline)
        return current


class _Conversation:
    """One transfer process's channel with what was read ahead from it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.usable = True
        self.busy = False
        self.protections: tuple[str, ...] = ()
        self._buffer = bytearray()

    def begin(self, settings: Settings, deadline: float) -> None:
        try:
            self.channel.write(encode_settings(settings), deadline - time.monotonic())
            self.protections = parse_hello(self.read_line(deadline))
        except BaseException:
            self.abandon()
            raise

    def read_exactly(self, count: int, deadline: float) -> bytes:
        while len(self._buffer) < count:
            self._fill(deadline)
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return data

    def read_line(self, deadline: float) -> bytes:
        while (end := self._buffer.find(b"\n", 0, MAX_ANSWER_LINE)) < 0:
            if len(self._buffer) >= MAX_ANSWER_LINE:
                raise transfer_error("transfer.protocol", "The transfer process sent too long a line.")
            self._fill(deadline)
        return self.read_exactly(end + 1, deadline)

    def _fill(self, deadline: float) -> None:
        data = self.channel.read(256 * 1024, deadline - time.monotonic())
        if not data:
            raise transfer_error("transfer.protocol", "The transfer process ended in the middle of an answer.")
        self._buffer += data

    def settle(self, error: TransferError | None = None) -> None:
        """An answer is complete. After `transfer.protocol`, which may be the process's own fault, it is not asked again."""
        self.busy = False
        if error is not None and error.code == "transfer.protocol":
            self.abandon()

    def abandon(self) -> None:
        if self.usable:
            self.usable = False
            self.channel.close()


def code_of_status(status: int) -> str | None:
    """The error code that an HTTP status stands for; None for those that a caller can use."""
    if status in (401, 403):
        return "transfer.refused"
    if status in (404, 410):
        return "transfer.not_found"
    if status in (408, 425, 429) or status >= 500:
        return "transfer.server_error"
    return None


def _unpack(text: str) -> str:
    """The human part of a problem in JSON (RFC 9457 `detail` or `title`, or our own `message`) with its code; else the text."""
    try:
        problem = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(problem, dict):
        return text
    told = [problem.get(name) for name in ("message", "detail", "title")]
    message = next((each.rstrip(" .") for each in told if isinstance(each, str) and each.strip()), "")
    code = problem.get("code")
    return message + (f" [{code}]" if isinstance(code, str) and code else "") or text
