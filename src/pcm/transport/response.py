"""One answer of the transfer process: its status at once, its body as it comes.

Serves steps 6, 8 and 12: `client` makes it, whoever asked reads it to the end or closes it. It counts everything again, and
appends to a part file what is meant for one. Decodes nothing.
"""

import json
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from pcm.content.whole_files import storing
from pcm.model.errors import StoreError, TransferError
from pcm.transport.answers import Head, parse_end
from pcm.transport.conversation import Conversation
from pcm.transport.framing import Request, printable, transfer_error

MAX_REASON, MAX_SHOWN = 4096, 200  # of a server's own words: bytes looked at, characters shown
_TEXTS = ("application/json", "application/problem+json", "text/plain")
_SPOILT = ("transfer.damaged", "transfer.changed", "transfer.too_long")  # what is in the part leads nowhere


class Response:
    """An answer. A context manager; read it to the end or close it.

    Attributes:
        status: 200, 206 (a range), 304 (not changed), or a 4xx that `fetch` leaves to its caller (400, 409, 422 ...).
        headers: Names in lower case: etag, content-length, content-range, content-type, date, last-modified, retry-after.
        kept: How many of the bytes that the request had already the body goes on from.
        packed: Bytes that were appended to the part.
    """

    def __init__(
        self, conversation: Conversation, request: Request, request_id: int, head: Head, deadline: float
    ) -> None:
        self._conversation = conversation
        self._request_id = request_id
        self._deadline = deadline
        self._most = request.max_decoded_bytes if request.decode else request.max_bytes - head.kept
        self._part, self._most_packed = request.part, request.max_bytes - head.kept
        self._ended = False
        self.url = request.url
        self.status = head.status
        self.headers = head.headers
        self.kept = head.kept
        self.packed = 0

    @property
    def etag(self) -> str | None:
        """The entity tag, to be sent as If-None-Match the next time."""
        return self.headers.get("etag")

    @property
    def total(self) -> int | None:
        """Length of the whole file at the server, as it says."""
        told = self.headers.get("content-range", "").rpartition("/")[2] or self.headers.get("content-length", "")
        return int(told) if told.isascii() and told.isdigit() and len(told) < 19 else None

    def iter_bytes(self) -> Iterator[bytes]:
        """The body in pieces of at most 256 KiB, as they come.

        Raises:
            TransferError: the body did not arrive as promised; what came until then may be kept for a resume.
            StoreError: `store.disk_full`, `store.not_writable`: of the part.
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
            data, for_part = self._conversation.read_frame(self._deadline)
            while for_part:
                self._append(data)
                data, for_part = self._conversation.read_frame(self._deadline)
            self._bound(came + len(data), self._most)
            if data:
                return data
            line = self._conversation.read_line(self._deadline)
        except BaseException:
            self._conversation.abandon()
            raise
        self._ended = True
        try:
            parse_end(line, self._request_id)
        except TransferError as error:
            self._conversation.settle(error)
            if self._part is not None and error.code in _SPOILT:
                empty(self._part)
            raise
        self._conversation.settle()
        return b""

    def _append(self, data: bytes) -> None:
        self.packed += len(data)
        self._bound(self.packed, self._most_packed if self._part is not None else 0)
        if self._part is not None:
            append(self._part, data)

    def _bound(self, came: int, most: int) -> None:
        if came > most:
            raise transfer_error("transfer.too_long", f"{self.url} sent more than the {most} bytes that it may.")

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
        except (TransferError, StoreError):
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


def append(part: int, data: bytes) -> None:
    """Write all of `data` at the end of a part file.

    Raises:
        StoreError: `store.disk_full`, `store.not_writable`.
    """
    with storing("the part file"):
        at, view = os.fstat(part).st_size, memoryview(data)
        while view:
            written = os.pwrite(part, view, at)
            view, at = view[written:], at + written


def empty(part: int, length: int = 0) -> None:
    """Cut a part file to `length` bytes.

    Raises:
        StoreError: `store.not_writable`.
    """
    with storing("the part file"):
        if os.fstat(part).st_size != length:
            os.ftruncate(part, length)


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
