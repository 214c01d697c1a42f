"""Endpoints about objects: which are missing, and their upload, verified before they are visible anywhere.

Serves step 2. Small objects come many at a time, large ones by themselves, in as many attempts as it takes. Both stream: only
small objects are ever whole in memory, a few megabytes of them, and each piece has a deadline. They go into the site's own
folder; `site.delivery` brings them to the other distribution servers.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import zstandard
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pcm.content.object_store import MOST_SMALL
from pcm.content.objects import largest_packed
from pcm.model.errors import PcmError, RequestError, Retry, StoreError, TrustError
from pcm.protocol.admin import MAX_OBJECT_BYTES
from pcm.protocol.admin_packages import (
    BATCH_HEADER,
    MAX_BATCH_BYTES,
    ObjectsAnswer,
    ObjectsQuestion,
    ObjectsStored,
    ObjectStored,
    UploadState,
)
from pcm.site.api.calls import Call, Reply, answer_with, authorise, read_query, write_reply
from pcm.site.authority import Site

PIECE_S = 30.0
MOST_UPLOADS = 4  # at once; the others wait
MOST_OF_ONE = 2  # of them with one token: whoever has a slow line, or stands still on purpose, leaves room for others
_HEADER = 18  # the longest zstd frame header (RFC 8878, section 3.1.1.1)
_BLOCK = 2**20  # pieces are joined to so much before a thread gets them
_AHEAD = 4  # of them wait for the thread
_TOGETHER = 16 * 2**20  # bytes of small objects that reach the disk together
RESERVE_BYTES = 512 * 2**20  # of home's disk that no upload takes: the site's own records go on


def missing(call: Call) -> Reply:
    """`POST /v1/objects/missing`. What is there stays there for a while: whoever asks is about to name it."""
    asked = call.parse(ObjectsQuestion)
    names = dict.fromkeys(asked.sha256)
    with call.site.content_turn:
        lacking = [sha256 for sha256 in names if not call.site.home.objects.touch(sha256)]
    return Reply(ObjectsAnswer(tuple(lacking)))


def upload_state(call: Call) -> Reply:
    """`GET /v1/objects/{sha256}/upload`."""
    sha256 = call.names["sha256"]
    begun = call.site.uploads.begun(sha256)
    return Reply(UploadState(sha256, call.site.home.objects.has(sha256), begun.received, begun.tail_sha256))


class Upload:
    """An endpoint whose body streams, as an ASGI application.

    Args:
        store: Takes the body in, in a thread, and gives the answer.
    """

    def __init__(
        self, site: Site, method: str, path: str, store: Callable[[Site, Scope, "_Body"], ObjectStored | ObjectsStored]
    ) -> None:
        self._site = site
        self._method = method
        self._path = path
        self._store = store
        # an upload keeps its thread while its bytes come: slow ones must not keep the threads that all else needs
        self._threads = ThreadPoolExecutor(MOST_UPLOADS, thread_name_prefix="upload")
        self._turns: dict[str, asyncio.Semaphore] = {}  # by token: there are as many as administrators have made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one upload."""
        await answer_with(self._answer, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        actor = await authorise(self._site, scope, self._method, self._path)
        loop = asyncio.get_running_loop()
        async with self._turns.setdefault(actor.token, asyncio.Semaphore(MOST_OF_ONE)):
            body = _Body(loop, self._site.home.root)
            pump = asyncio.create_task(body.pump(receive))
            try:
                stored = await loop.run_in_executor(self._threads, self._store, self._site, scope, body)
            finally:
                pump.cancel()
        return write_reply(Reply(stored))


def store_one(site: Site, scope: Scope, body: "_Body") -> ObjectStored:
    """`PUT /v1/objects/{sha256}`, with `?offset=` and `?length=` to go on behind what an earlier attempt has brought."""
    sha256 = scope["path_params"]["sha256"]
    query = read_query(scope)
    offset, length = _number(query.get("offset", "0")), _number(query.get("length", "-1"))
    if offset == 0:
        length = _told_length(body.peek(_HEADER))
    if not 0 <= length <= MAX_OBJECT_BYTES:
        raise RequestError(
            "An object's frame must say its length, and not be larger than allowed.", code="request.object"
        )
    body.limit = largest_packed(length)
    site.uploads.take(sha256, length, offset, body.pieces())
    return ObjectStored(sha256, length)


def store_many(site: Site, _scope: Scope, body: "_Body") -> ObjectsStored:
    """`POST /v1/objects`: small objects one behind the other, each with its name and packed length before it."""
    body.limit = MAX_BATCH_BYTES
    stored = 0
    held: list[tuple[str, bytes]] = []
    size = 0
    while header := body.peek(BATCH_HEADER):
        if len(header) < BATCH_HEADER:
            raise RequestError("A batch of objects ends in the middle of one.", code="request.incomplete")
        body.take(BATCH_HEADER)
        sha256, length = header[:32].hex(), int.from_bytes(header[32:], "big")
        if length > largest_packed(MOST_SMALL):
            raise TrustError("An object in a batch is too large for one.", code="trust.endless_data")
        packed = body.peek(length)
        if len(packed) < length:
            raise RequestError("A batch of objects ends in the middle of one.", code="request.incomplete")
        body.take(length)
        held.append((sha256, packed))
        size += length
        stored += 1
        if size >= _TOGETHER:
            site.home.objects.put_small(held)
            held, size = [], 0
    site.home.objects.put_small(held)
    return ObjectsStored(stored)


def _told_length(head: bytes) -> int:
    try:
        return zstandard.frame_content_size(head)
    except zstandard.ZstdError as error:
        raise TrustError(f"An object is not one zstd frame: {error}.", code="trust.content") from error


def _number(text: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isdecimal() or not digits.isascii() or len(digits) > 18:
        raise RequestError("offset and length are numbers of bytes.", code="request.query")
    return int(text)


class _Body:
    """A request's body: taken in by the event loop, ahead of a thread that works through it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, home: Path) -> None:
        self._loop = loop
        self._home = home
        self._ready: SimpleQueue[bytes | PcmError | None] = SimpleQueue()
        self._room = asyncio.Semaphore(_AHEAD)
        self._ended = False
        self._held = bytearray()
        self._came = 0
        self.limit = MAX_OBJECT_BYTES

    async def pump(self, receive: Receive) -> None:
        """Take the body in until it ends, fails, or nobody wants it any more."""
        joined = bytearray()
        more = True
        try:
            while more:
                piece, more = await _receive_in_time(receive)
                joined += piece
                if len(joined) >= _BLOCK or (joined and not more):
                    await self._room.acquire()
                    self._ready.put(bytes(joined))
                    joined.clear()
            self._ready.put(None)
        except RequestError as error:
            if joined:  # what has come is worth keeping
                self._ready.put(bytes(joined))
            self._ready.put(error)

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer only at the end of the body; they stay."""
        while len(self._held) < count and (piece := self._next()):
            self._held += piece
        return bytes(self._held[:count])

    def take(self, count: int) -> None:
        """Leave bytes behind that were peeked at."""
        del self._held[:count]

    def pieces(self) -> Iterator[bytes]:
        """All bytes that are left, bounded by `limit`."""
        if self._held:
            yield bytes(self._held)
            self._held.clear()
        while piece := self._next():
            yield piece

    def _next(self) -> bytes:
        if self._ended:
            return b""
        piece = self._ready.get()
        if piece is None:
            self._ended = True
            return b""
        if isinstance(piece, PcmError):
            self._ended = True
            raise piece
        self._loop.call_soon_threadsafe(self._room.release)
        check_room(self._home)
        self._came += len(piece)
        if self._came > self.limit:
            raise TrustError("An upload is longer than its object can be.", code="trust.endless_data")
        return piece


def check_room(home: Path) -> None:
    """Raise StoreError `store.disk_full` where an upload would take the last of the disk."""
    try:
        disk = os.statvfs(home)
    except FileNotFoundError:
        return  # it is made with what comes
    if disk.f_bavail * disk.f_frsize < RESERVE_BYTES:
        raise StoreError(
            f"Less than {RESERVE_BYTES} bytes are free at the site for {home}: it takes no uploads until there is more. "
            "See `pcm content gc`.",
            code="store.disk_full",
            retry=Retry.LATER,
        )


async def _receive_in_time(receive: Receive) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(PIECE_S):
            message = await receive()
    except TimeoutError as error:
        raise RequestError("The upload stands still.", code="request.too_slow") from error
    if message["type"] != "http.request":
        raise RequestError("The upload ended before its end.", code="request.incomplete")
    piece: bytes = message.get("body", b"")
    return piece, bool(message.get("more_body", False))
