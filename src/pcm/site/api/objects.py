"""Endpoints about objects: which are missing, and their upload, verified before they are visible anywhere.

Serves step 2. An upload streams: it is never whole in memory, and each piece has a deadline. It goes to every
distribution folder before it is answered.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import zstandard
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pcm.content.objects import largest_packed, pieces_of
from pcm.model.errors import RequestError, TrustError
from pcm.protocol.admin import MAX_OBJECT_BYTES
from pcm.protocol.admin_packages import ObjectsAnswer, ObjectsQuestion, ObjectStored
from pcm.site.api.calls import Call, Reply, answer_with, authorise, write_reply
from pcm.site.authority import Site

PIECE_S = 30.0
MOST_UPLOADS = 4  # at once; the others wait
_HEADER = 18  # the longest zstd frame header (RFC 8878, section 3.1.1.1)


def missing(call: Call) -> Reply:
    """`POST /v1/objects/missing`."""
    asked = call.parse(ObjectsQuestion)
    lacking = [
        sha256
        for sha256 in dict.fromkeys(asked.sha256)
        if not all(folder.objects.has(sha256) for folder in call.site.distribution)
    ]
    return Reply(ObjectsAnswer(tuple(lacking)))


class ObjectUpload:
    """`PUT /v1/objects/{sha256}` as an ASGI application."""

    def __init__(self, site: Site, method: str, path: str) -> None:
        self._site = site
        self._method = method
        self._path = path
        # an upload keeps its thread while its bytes come: slow ones must not keep the threads that all else needs
        self._threads = ThreadPoolExecutor(MOST_UPLOADS, thread_name_prefix="upload")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one upload."""
        await answer_with(self._answer, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        await authorise(self._site, scope, self._method, self._path)
        body = _Body(receive, asyncio.get_running_loop())
        sha256 = scope["path_params"]["sha256"]
        loop = asyncio.get_running_loop()
        return write_reply(Reply(await loop.run_in_executor(self._threads, self._store, sha256, body)))

    def _store(self, sha256: str, body: "_Body") -> ObjectStored:
        head = body.peek(_HEADER)
        try:
            length = zstandard.frame_content_size(head)
        except zstandard.ZstdError as error:
            raise TrustError(f"An object is not one zstd frame: {error}.", code="trust.content") from error
        if not 0 <= length <= MAX_OBJECT_BYTES:
            raise RequestError(
                "An object's frame must say its length, and not be larger than allowed.", code="request.object"
            )
        body.limit = largest_packed(length)
        first, *others = self._site.distribution
        first.objects.put(sha256, length, body.pieces())
        for folder in others:
            with first.objects.open(sha256) as file:
                folder.objects.put(sha256, length, pieces_of(file))
        return ObjectStored(sha256, length)


class _Body:
    """A request's body, pulled piece by piece from a thread."""

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop) -> None:
        self._receive = receive
        self._loop = loop
        self._held = b""
        self._more = True
        self._came = 0
        self.limit = MAX_OBJECT_BYTES

    def peek(self, count: int) -> bytes:
        """The first bytes, which `pieces` will give again."""
        while self._more and len(self._held) < count:
            self._held += self._next()
        return self._held[:count]

    def pieces(self) -> Iterator[bytes]:
        """All bytes, bounded by `limit`."""
        if self._held:
            yield self._held
            self._held = b""
        while self._more:
            piece = self._next()
            if piece:
                yield piece

    def _next(self) -> bytes:
        future = asyncio.run_coroutine_threadsafe(self._receive_in_time(), self._loop)
        piece = future.result()
        self._came += len(piece)
        if self._came > self.limit:
            raise TrustError("An upload is longer than its object can be.", code="trust.endless_data")
        return piece

    async def _receive_in_time(self) -> bytes:
        try:
            async with asyncio.timeout(PIECE_S):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestError("The upload stands still.", code="request.too_slow") from error
        if message["type"] != "http.request":
            raise RequestError("The upload ended before its end.", code="request.incomplete")
        self._more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece
