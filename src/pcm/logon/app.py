"""The logon server over HTTP: answers one question, 'what is for me?', and takes status reports and enrolments in.

Serves steps 6 (instruction files) and 12 (reports): in the site's process under `/logon`, or by itself over a folder. Each
client reads its own files only and proves by a signature who it is (RFC 9421); roots are public. Reports and enrolments go,
with their sender known, to the sinks that the site gives; a logon server without them takes none. It holds no authority to
execute anything: at most it holds back what is new, and its lease runs out. Where it is given a place for it (`wakes`), it tells
clients at each poll that they may wait there for news.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pcm.logon.folder import LogonFolder
from pcm.logon.leases import Leases
from pcm.logon.peers import PeerBook
from pcm.logon.wakes import Wakes
from pcm.model.errors import PcmError, RequestError, StoreError, TrustError
from pcm.protocol import enrolment, report
from pcm.transport.locations import parse_location
from pcm.transport.signature_check import KeyOf, verify_request
from pcm.trust.envelopes import client_id_of

RECEIVE_S = 10.0  # for a whole body
_CLIENT_PATH = re.compile(r"clients/([0-9a-f]{32})/([0-9a-z.]{1,100})\Z")
_KNOWN = re.compile(rb"known=([0-9a-f]{1,64})\Z")
WAKE = "wake"  # a client's waiting place; `pcm-wake` says for how long, in seconds
PEERS = "peers"  # which other clients can be asked for content
_ROOT_PATH = re.compile(r"roots/[1-9][0-9]{0,15}\.root\.json\Z")


class Answer(NamedTuple):
    """What a sink answers: an HTTP status and a JSON body. `retry_after_s`: when to ask again, if not now."""

    status: int
    body: bytes
    retry_after_s: int = 0


ReportSink = Callable[[str, bytes], Awaitable[Answer]]
"""Client id and DSSE envelope (not verified yet) to the answer. PcmErrors become statuses, see `status_of`."""

EnrolmentSink = Callable[[enrolment.EnrolmentRequest, str, str], Awaitable[Answer]]
"""Request (whose sender holds the key in it), client id, and the network address that it came from, to the answer."""


class LogonApp:
    """An ASGI application over a `LogonFolder`, to be mounted under any prefix.

    Args:
        folder: What to serve.
        public_url: This server's address as clients are told it, prefix included (`https://host/logon`). Signatures are
            checked against it, never against what a request says of itself.
        key_of: A client's public key by its id, None for those that are unknown, removed or quarantined.
        leases: Renews leases as they are served; None if the site signs them (a static folder).
        report_sink: Takes reports; None: this server takes none.
        enrolment_sink: Same for enrolments.
        wakes: Where clients wait for news; None: this server does not offer that.
        now: Aware, UTC.
    """

    def __init__(
        self,
        folder: LogonFolder,
        public_url: str,
        key_of: KeyOf,
        *,
        leases: Leases | None = None,
        report_sink: ReportSink | None = None,
        enrolment_sink: EnrolmentSink | None = None,
        wakes: Wakes | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._public_url = parse_location(public_url).url
        self._key_of = key_of
        self._leases = leases
        self._report_sink = report_sink
        self._enrolment_sink = enrolment_sink
        self._wakes = wakes
        self._peers = PeerBook()
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The HTTP boundary: every PcmError becomes a status here."""
        try:
            response = await self._answer(scope, receive)
        except PcmError as error:
            response = refusal(error)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> ASGIApp:
        path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
        method = scope["method"]
        if method == "GET":
            found = _CLIENT_PATH.match(path)
            if found:
                return self._client_file(scope, path, found[1], found[2])
            if _ROOT_PATH.match(path):
                return self._root_file(path)
        if method == "POST" and path == "reports":
            return await self._report(scope, path, receive)
        if method == "POST" and path == "enroll":
            return await self._enroll(scope, path, receive)
        raise RequestError("There is nothing here.", code="not_found")

    def _client_file(self, scope: Scope, path: str, owner: str, name: str) -> ASGIApp:
        client_id = self._sender(scope, path, None, self._key_of)
        if client_id != owner:
            raise RequestError("A client reads its own instructions only.", code="not_allowed")
        if name == WAKE:
            return self._waiting_place(scope, client_id)
        if name == PEERS:
            return self._told_peers(scope, client_id)
        if name != "timestamp.json":
            return self._file(path, {"cache-control": "private, max-age=86400"})
        self._peers.note_poll(client_id, _source(scope), self._now().timestamp())
        etag, content = self._newest(client_id)
        if etag is None:
            raise RequestError("There are no instructions for this client yet.", code="not_found")
        headers = {"etag": etag, "cache-control": "private, no-cache"}
        if self._wakes is not None:
            headers["pcm-wake"] = str(self._wakes.hold_s)
        if _header(scope, b"if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return self._file(path, headers, content)

    def _newest(self, client_id: str) -> tuple[str | None, bytes | None]:
        """Entity tag of a client's timestamp, None if there is none; its content, if that was read."""
        if self._leases is not None:
            return self._leases.ensure(client_id), None
        content = self._folder.read(f"clients/{client_id}/timestamp.json")
        return None if content is None else f'"{hash_of(content)}"', content

    def _waiting_place(self, scope: Scope, client_id: str) -> ASGIApp:
        """Let a client wait until its timestamp is another than the one that it knows (`?known=`, an entity tag).

        An answer that begins (200) says that nothing is new; 204, that something is.
        """
        wakes = self._wakes
        known = _KNOWN.match(scope.get("query_string", b""))
        if wakes is None or known is None:
            raise RequestError("There is no such file.", code="not_found")
        if not wakes.has_room(client_id):
            raise StoreError("As many clients wait here as can; ask at the next poll.", code="store.busy")
        tag = f'"{known[1].decode()}"'
        newest, _ = self._newest(client_id)
        if newest is None:
            raise RequestError("There are no instructions for this client yet.", code="not_found")
        if newest != tag:
            return Response(status_code=204, headers={"cache-control": "no-store"})

        async def wait(_scope: Scope, receive: Receive, send: Send) -> None:
            await wakes.wait(client_id, lambda: self._newest(client_id)[0] != tag, receive, send)

        return wait

    def _told_peers(self, scope: Scope, client_id: str) -> Response:
        query = scope.get("query_string", b"")
        told = self._peers.ask(client_id, _source(scope), query, self._now().timestamp())
        return Response(told, 200, {"cache-control": "no-store"}, "application/json")

    def _root_file(self, path: str) -> Response:
        return self._file(path, {"cache-control": "public, max-age=86400"})

    def _file(self, path: str, headers: dict[str, str], content: bytes | None = None) -> Response:
        content = self._folder.read(path) if content is None else content
        if content is None:
            raise RequestError("There is no such file.", code="not_found")
        return Response(content, headers=headers, media_type="application/json")

    async def _report(self, scope: Scope, path: str, receive: Receive) -> Response:
        if self._report_sink is None:
            raise RequestError("This logon server takes no reports.", code="not_found")
        body = await receive_body(scope, receive, report.MAX_ENVELOPE_BYTES)
        client_id = self._sender(scope, path, body, self._key_of)
        return _json(await self._report_sink(client_id, body))

    async def _enroll(self, scope: Scope, path: str, receive: Receive) -> Response:
        """Whoever enrols proves that the key in the request is theirs: the request is signed with it."""
        if self._enrolment_sink is None:
            raise RequestError("This logon server takes no enrolments.", code="not_found")
        body = await receive_body(scope, receive, enrolment.MAX_BYTES)
        asked = enrolment.read_enrolment(body)
        key = read_public_key(asked.public_key.encode())
        client_id = client_id_of(key)
        self._sender(scope, path, body, lambda keyid: key if keyid == client_id else None)
        return _json(await self._enrolment_sink(asked, client_id, _source(scope)))

    def _sender(self, scope: Scope, path: str, body: bytes | None, key_of: KeyOf) -> str:
        query = scope.get("query_string", b"")
        target = f"{self._public_url}/{path}" + (f"?{query.decode('latin-1')}" if query else "")
        return verify_request(scope["method"], target, scope["headers"], body, key_of, self._now())


def create_app(app: LogonApp, prefix: str = "/logon") -> Starlette:
    """A logon server by itself: `app` under `prefix`, and `/healthz`."""
    return Starlette(routes=[Route("/healthz", _healthz), Mount(prefix, app=app)])


async def receive_body(scope: Scope, receive: Receive, most: int, limit_s: float = RECEIVE_S) -> bytes:
    """A request's whole body, bounded in size and time.

    Raises:
        RequestError: `request.too_large`, `request.too_slow`, `request.incomplete`.
    """
    too_large = RequestError(f"A body here has at most {most} bytes.", code="request.too_large")
    announced = _header(scope, b"content-length")
    if announced and not (announced.isascii() and announced.isdigit() and int(announced[:20]) <= most):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise RequestError("The request ended before its body did.", code="request.incomplete")
                body += message.get("body", b"")
                if len(body) > most:
                    raise too_large
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise RequestError(f"The body did not come within {limit_s:g} seconds.", code="request.too_slow") from error
    return bytes(body)


def read_public_key(pem: bytes) -> EllipticCurvePublicKey:
    """A client's public key.

    Raises:
        RequestError: `request.public_key`: not PEM, or not an elliptic curve key.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RequestError("The public key is not in PEM.", code="request.public_key") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise RequestError("The public key is not a P-256 key.", code="request.public_key")
    return key


_STATUSES = {
    "not_found": 404,
    "not_allowed": 403,
    "conflict": 409,
    "request.too_large": 413,
    "request.too_slow": 408,
    "trust.unknown_client": 403,
    "trust.request_unsigned": 401,
    "trust.request_signature": 401,
    "trust.request_age": 401,
}


def status_of(error: PcmError) -> int:
    """The HTTP status for an error: by its code, else by its root."""
    if error.code in _STATUSES:
        return _STATUSES[error.code]
    if isinstance(error, TrustError):
        return 403
    if isinstance(error, StoreError):
        return 503
    return 400 if isinstance(error, RequestError) else 500


def refusal(error: PcmError) -> Response:
    """An error as clients get it: `{"code": ..., "message": ...}`."""
    body = msgspec.json.encode({"code": error.code, "message": error.message})
    return Response(body, status_of(error), {"cache-control": "no-store"}, "application/json")


def hash_of(content: bytes) -> str:
    """A short tag of a file's content."""
    return hashlib.sha256(content).hexdigest()[:32]


def _json(answer: Answer) -> Response:
    headers = {"cache-control": "no-store"}
    if answer.retry_after_s:
        headers["retry-after"] = str(answer.retry_after_s)
    return Response(answer.body, answer.status, headers, "application/json")


def _source(scope: Scope) -> str:
    """The network address that a request came from, as far as it is known."""
    return str((scope.get("client") or ("",))[0])


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _healthz(_: Request) -> Response:
    return PlainTextResponse("ok")
