"""One call of the admin API: authenticated, permitted, bounded, handled in a thread; every error as problem details.

Serves steps 2, 3 and 12: between the web server and the responders, one file for each noun beside this one. The order
is fixed: who asks (`tokens`), may they (`permissions`), only then is a body read, with a limit and a deadline. This
is the HTTP boundary: a fault of the program becomes a 500 and a line in the log here, and nowhere else. RFC 9457
(problem details), RFC 6750 (bearer tokens).
"""

import asyncio
import hashlib
import http
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pcm.logon.app import receive_body
from pcm.model.errors import PcmError, RequestError, StoreError, TrustError
from pcm.protocol import codec
from pcm.protocol.admin import MAX_REQUEST_BYTES, Problem
from pcm.site import pages, permissions, tokens
from pcm.site.authority import Site
from pcm.site.throttle import TooOftenError, source_of
from pcm.site.tokens import Actor

RECEIVE_S = 60.0
MAX_QUERY = 4096
T = TypeVar("T")
_log = logging.getLogger(__name__)

_STATUSES = {
    "not_found": 404,
    "unauthenticated": 401,
    "not_allowed": 403,
    "conflict": 409,
    "request.too_large": 413,
    "request.too_slow": 408,
    "request.too_many": 429,
    "protocol.too_long": 413,
    "store.disk_full": 507,
}
_CONFLICTS = ("job.", "package.", "client.", "approval.")


@dataclass(frozen=True)
class Call:
    """What a responder gets. `names`: from the path; `query`: decoded; `body`: bounded, not parsed yet."""

    site: Site
    actor: Actor
    names: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes

    def parse(self, shape: type[T], *, max_bytes: int = MAX_REQUEST_BYTES) -> T:
        """The body as this type. Raises RequestError `protocol.*`."""
        value: T = codec.parse(shape, self.body, kind=shape.__name__, max_bytes=max_bytes)
        return value

    def slice(self) -> pages.Slice:
        """Which part of a list is wanted. Raises RequestError `request.limit`."""
        return pages.read_slice(self.query.get("limit"), self.query.get("cursor"))


@dataclass(frozen=True)
class Reply:
    """A responder's answer: a msgspec value (None: no content), and the status."""

    value: Any
    status: int = 200


Responder = Callable[[Call], Reply]


class Endpoint:
    """One endpoint as an ASGI application.

    Args:
        path: Its pattern, as in `permissions.ENDPOINTS`.
        max_bytes: The longest body it takes.
    """

    def __init__(
        self, site: Site, method: str, path: str, responder: Responder, *, max_bytes: int = MAX_REQUEST_BYTES
    ) -> None:
        self._site = site
        self._method = method
        self._path = path
        self._responder = responder
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await answer_with(self._answer, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        actor = await authorise(self._site, scope, self._method, self._path)
        query = read_query(scope)
        body = b""
        if self._method in {"POST", "PUT"}:
            body = await receive_body(scope, receive, self._max_bytes, RECEIVE_S)
        call = Call(self._site, actor, scope["path_params"], query, body)
        reply = await asyncio.to_thread(self._responder, call)
        return write_reply(reply)


async def answer_with(answer: Callable[[Scope, Receive], Any], scope: Scope, receive: Receive, send: Send) -> None:
    """Run one answer behind the HTTP boundary."""
    try:
        response: Response = await answer(scope, receive)
    except PcmError as error:
        response = problem(status_of(error), error.code, error.message)
        if isinstance(error, TooOftenError):
            response.headers["retry-after"] = str(error.wait_s)
    except Exception:  # noqa: BLE001 - the HTTP boundary
        _log.exception("%s %s failed", scope["method"], scope["path"])
        response = problem(500, "internal", "The site failed at this; its log says more.")
    await response(scope, receive, send)


async def authorise(site: Site, scope: Scope, method: str, path: str) -> Actor:
    """Find out who asks, and whether they may.

    After too many wrong tokens from one address, only those that were right lately are looked at for a while.

    Raises:
        RequestError: `unauthenticated`, `not_allowed`, `request.too_many`.
    """
    token = bearer(scope)
    source = source_of(str((scope.get("client") or ("",))[0]))
    digest = hashlib.sha256(token.encode()).digest()
    wait = site.wrong_tokens.wait_s(source)
    if wait and digest not in site.right_tokens:
        raise TooOftenError("Too many wrong tokens came from this address.", wait)
    try:
        actor = await asyncio.to_thread(_verify, site, token)
    except RequestError:
        site.wrong_tokens.count(source)
        raise
    site.right_tokens.add(digest)
    permissions.check_permission(actor.role, method, path)
    return actor


def bearer(scope: Scope) -> str:
    """The token of the Authorization header. Raises RequestError `unauthenticated`."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, token = (values[0] if len(values) == 1 else b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise RequestError("Give an API token: `Authorization: Bearer …`.", code="unauthenticated")
    return token.strip()


def read_query(scope: Scope) -> dict[str, str]:
    """The query's parameters, each once. Raises RequestError `request.query`."""
    raw = scope.get("query_string", b"")
    if len(raw) > MAX_QUERY:
        raise RequestError("The query is too long.", code="request.query")
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
    except (ValueError, UnicodeDecodeError):
        raise RequestError("The query is malformed.", code="request.query") from None
    query = dict(pairs)
    if len(query) != len(pairs):
        raise RequestError("The query names something twice.", code="request.query")
    return query


def write_reply(reply: Reply) -> Response:
    """A responder's answer as HTTP."""
    if reply.value is None:
        return Response(status_code=204, headers={"cache-control": "no-store"})
    return Response(
        msgspec.json.encode(reply.value),
        status_code=reply.status,
        headers={"cache-control": "no-store"},
        media_type="application/json",
    )


def problem(status: int, code: str, detail: str) -> Response:
    """Problem details."""
    headers = {"cache-control": "no-store"}
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="pcm"'
    body = Problem(http.HTTPStatus(status).phrase, status, detail, code)
    return Response(msgspec.json.encode(body), status, headers, "application/problem+json")


def status_of(error: PcmError) -> int:
    """The HTTP status of an error: by its code, else by its root."""
    if error.code in _STATUSES:
        return _STATUSES[error.code]
    if isinstance(error, StoreError):
        return 503
    if isinstance(error, TrustError):
        return 422
    if isinstance(error, RequestError):
        return 409 if error.code.startswith(_CONFLICTS) else 400
    return 500


def _verify(site: Site, token: str) -> Actor:
    with site.database.read() as connection:
        return tokens.verify(connection, site.token_key, site.name, token, site.clock())
