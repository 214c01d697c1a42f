"""The admin API as `pcm` calls it: one connection, typed questions and answers, every failure one of our errors.

Serves steps 2 and 3, on the administrator's side of `site.api`. The token goes over https or to this machine only;
redirects are not followed, answers are bounded. It decides nothing, and every verb goes through it: one permission path.
"""

import ipaddress
import ssl
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, overload
from urllib.parse import quote

import httpx
import msgspec

from pcm.model.errors import RequestError, Retry, TransferError
from pcm.protocol import codec
from pcm.protocol.admin import MAX_LIMIT, PREFIX, Page, Problem

T = TypeVar("T")
MAX_ANSWER = 256 * 2**20
MAX_PROBLEM = 64 * 2**10
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
# a large object, or a manifest of many files, may take the site a while to verify and store
_LARGE = 2**20
_UPLOAD_TIMEOUT = httpx.Timeout(300.0, connect=10.0)


class Api:
    """One site's admin API.

    Args:
        url: `https://pcm.example.org`, with or without a path below which the site is served.
        token: Sent with every call.
        insecure_http: Send the token over plain http to other machines too.
        ca_file: PEM file of the authority to trust for https, instead of those that the system knows.
        transport: What carries the requests; tests give their own.

    Raises:
        RequestError: `request.url`; `request.insecure`: the token would travel readable; `request.ca_file`.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        insecure_http: bool = False,
        ca_file: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = checked_url(url, insecure_http=insecure_http)
        self._token = token
        # a proxy from the environment would read what is meant for this machine only
        trust_env = not is_loopback(httpx.URL(url).host)
        self._client = httpx.Client(
            timeout=_TIMEOUT,
            follow_redirects=False,
            trust_env=trust_env,
            verify=True if ca_file is None else trusted(ca_file),
            transport=transport,
            headers={"user-agent": "pcm"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, shape: type[T], **query: str | int | None) -> T:
        """Ask. `path` stands below `/v1`."""
        answer: T = self._call("GET", path, shape, query=query)
        return answer

    @overload
    def post(self, path: str, body: Any, shape: type[T]) -> T: ...

    @overload
    def post(self, path: str, body: Any, shape: None) -> None: ...

    def post(self, path: str, body: Any, shape: Any) -> Any:
        """Order. `body`: a msgspec value, or None; `shape` None: the answer is not read."""
        answer: Any = self._call("POST", path, shape, body=body)
        return answer

    def put(self, path: str, body: Any, shape: type[T]) -> T:
        """Replace."""
        answer: T = self._call("PUT", path, shape, body=body)
        return answer

    def delete(self, path: str) -> None:
        """Remove."""
        self._call("DELETE", path, None)

    def upload(self, path: str, pieces: Iterable[bytes], shape: type[T], **query: str | int | None) -> T:
        """Send a stream of bytes."""
        answer: T = self._call("PUT", path, shape, query=query, stream=pieces)
        return answer

    def send(self, path: str, pieces: Iterable[bytes], shape: type[T]) -> T:
        """Send a stream of bytes that is no single thing."""
        answer: T = self._call("POST", path, shape, stream=pieces)
        return answer

    def pages(self, path: str, item: type[T], most: int | None = None, **query: str | int | None) -> Iterator[T]:
        """Go through a list page by page, at most `most` items."""
        came, cursor = 0, None
        while True:
            limit = MAX_LIMIT if most is None else min(MAX_LIMIT, most - came)
            page: Page[T] = self.get(path, Page[item], **query, limit=limit, cursor=cursor)  # type: ignore[valid-type]
            yield from page.items
            came += len(page.items)
            cursor = page.next
            if cursor is None or not page.items or (most is not None and came >= most):
                return

    def fetch(self, url: str, max_bytes: int) -> Iterator[bytes]:
        """A public file of a distribution server, without the token.

        Raises:
            TransferError: `transfer.not_found`, `transfer.too_long`, `transfer.unreachable`.
        """
        with mapped(url), self._client.stream("GET", url) as response:
            if response.status_code == httpx.codes.NOT_FOUND:
                raise TransferError(f"{url} does not exist.", code="transfer.not_found")
            if response.status_code != httpx.codes.OK:
                raise TransferError(f"{url} answered {response.status_code}.", code="transfer.refused")
            came = 0
            for piece in response.iter_bytes():
                came += len(piece)
                if came > max_bytes:
                    raise TransferError(f"{url} is longer than {max_bytes} bytes.", code="transfer.too_long")
                yield piece

    def _call(
        self,
        method: str,
        path: str,
        shape: Any,
        *,
        query: dict[str, str | int | None] | None = None,
        body: Any = None,
        stream: Iterable[bytes] | None = None,
    ) -> Any:
        url = f"{self.url}{PREFIX}{path}"
        content: Any = stream if stream is not None else None if body is None else codec.encode(body)
        headers = {"authorization": f"Bearer {self._token}", "accept": "application/json"}
        if content is not None:
            headers["content-type"] = "application/zstd" if stream is not None else "application/json"
        params = {name: value for name, value in (query or {}).items() if value is not None}
        timeout = _UPLOAD_TIMEOUT if stream is not None or len(content or b"") > _LARGE else _TIMEOUT
        with (
            mapped(url),
            self._client.stream(
                method, url, content=content, headers=headers, params=params, timeout=timeout
            ) as response,
        ):
            return self._answer(response, shape)

    def _answer(self, response: httpx.Response, shape: Any) -> Any:
        if response.is_redirect:
            target = response.headers.get("location", "")[:200]
            raise RequestError(
                f"{self.url} redirects to {target}: give the site's own address.", code="request.redirect"
            )
        data = _read(response, MAX_PROBLEM if response.is_error else MAX_ANSWER)
        if response.is_error:
            raise problem(response.status_code, data, self.url)
        return None if shape is None else codec.parse(shape, data, kind="site's answer", max_bytes=MAX_ANSWER)


def trusted(ca_file: str) -> ssl.SSLContext:
    """What to trust for https: the authorities in a file, and no others.

    Raises:
        RequestError: `request.ca_file`.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:  # ssl's own errors are OSErrors
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RequestError(
            f"The file of authorities {ca_file} cannot be used: {why}. It must hold certificates in PEM.",
            code="request.ca_file",
        ) from None


def segment(text: str) -> str:
    """One path segment: a name as it may stand in a URL."""
    return quote(text, safe="")


def checked_url(url: str, *, insecure_http: bool) -> str:
    """Return a site's URL without a final slash, if a token may be sent there. Raises as `Api`."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.query or parsed.fragment or parsed.userinfo:
        raise RequestError(
            f"{url[:200]!r} is no site's address: expected https://host[:port][/path].", code="request.url"
        )
    if parsed.scheme == "http" and not insecure_http and not is_loopback(parsed.host):
        raise RequestError(
            f"{url} is plain http, and the token would travel readable. Use https, or say --insecure-http.",
            code="request.insecure",
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host is this very machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def problem(status: int, data: bytes, url: str) -> RequestError | TransferError:
    """An error answer as our error; RFC 9457 problem details if it has them."""
    try:
        told = msgspec.json.decode(data, type=Problem)
    except msgspec.DecodeError:
        told = None
    if told is None:
        codes = {401: "unauthenticated", 403: "not_allowed", 404: "not_found"}
        if status in codes:
            return RequestError(f"{url} answered {status}: is this a site's address?", code=codes[status])
        return TransferError(f"{url} answered {status}, and not as a site does.", code="transfer.server")
    if told.code.startswith("transfer.") or (status >= 500 and told.code.startswith("store.")):
        return TransferError(told.detail, code=told.code, retry=Retry.LATER)
    return RequestError(told.detail, code=told.code)


def _read(response: httpx.Response, most: int) -> bytes:
    received = bytearray()
    for piece in response.iter_bytes():
        received += piece
        if len(received) > most:
            raise TransferError(f"The site's answer is longer than {most} bytes.", code="transfer.too_long")
    return bytes(received)


class mapped:  # noqa: N801 - reads as a verb in a with statement
    """The one place where httpx's errors become ours."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, httpx.TimeoutException):
            raise TransferError(f"{self._url} did not answer in time.", code="transfer.too_slow") from error
        if isinstance(error, httpx.TransportError):
            why = str(error) or type(error).__name__
            raise TransferError(
                f"{self._url} cannot be reached: {why}. Is the site served there?", code="transfer.unreachable"
            ) from error
        if isinstance(error, (httpx.InvalidURL, httpx.DecodingError)):
            raise TransferError(f"{self._url}: {error}.", code="transfer.failed") from error
