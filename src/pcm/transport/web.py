"""Fetching over HTTP and HTTPS, inside the transfer process.

Serves steps 6, 8 and 12: `transfer` asks it for one exchange at a time; below it stands `wire`. Every answer that is not
plainly right is refused with a code: it follows no redirect, repairs nothing, guesses no length, decodes no content
encoding. Connections are kept and used again within the life of the process.
"""

import http.client
import urllib.parse

from pcm.model.errors import TransferError
from pcm.transport.answers import Head
from pcm.transport.framing import Request, Settings, printable, transfer_error
from pcm.transport.pace import Pace
from pcm.transport.ranges import Answer, check_range, range_field
from pcm.transport.wire import WatchedConnection, proxy_for, tls_context

MAX_HEAD = 32 * 1024  # status line and headers, all 1xx answers included, and what is read ahead of the body
MAX_CONNECTIONS = 8

Place = tuple[str, str, int]  # scheme, host, port


class Web:
    """All HTTP and HTTPS servers, with their open connections.

    Args:
        settings: Certificate authorities and proxy.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connections: dict[Place, WatchedConnection] = {}

    def open(self, request: Request, pace: Pace) -> Answer:
        """Send `request` and read the head of the answer.

        Raises:
            TransferError: every code but `transfer.refused`, `.not_found` and `.server_error`, which are statuses here.
        """
        parts = urllib.parse.urlsplit(request.url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.username is not None:
            raise transfer_error("transfer.protocol", f"The URL {request.url} names no host, a bad port, or a user.")
        place = (parts.scheme, host, port or (443 if parts.scheme == "https" else 80))
        idle = self._idle(place)
        return self._mapped(idle or self._connection(place), place, request, pace, reused=idle is not None)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def keep(self, place: Place, connection: WatchedConnection) -> None:
        """Put a connection whose answer was read to its end aside for the next request to the same place."""
        while len(self._connections) >= MAX_CONNECTIONS:
            self._connections.pop(next(iter(self._connections))).close()
        self._connections[place] = connection

    def _idle(self, place: Place) -> WatchedConnection | None:
        connection = self._connections.pop(place, None)
        if connection is None or connection.sock is None or connection.watched is None:
            return None
        if not connection.watched.is_quiet():
            connection.close()
            return None
        return connection

    def _connection(self, place: Place) -> WatchedConnection:
        scheme, host, port = place
        tls = tls_context(self._settings.ca_file) if scheme == "https" else None
        return WatchedConnection(host, port, tls, proxy_for(host, self._settings))

    def _mapped(
        self, connection: WatchedConnection, place: Place, request: Request, pace: Pace, *, reused: bool
    ) -> Answer:
        """The one place where the errors of sockets, TLS and `http.client` become coded ones (before the body)."""
        where = f"{place[1]} port {place[2]}"
        try:
            return self._exchange(connection, place, request, pace)
        except TransferError:
            connection.close()
            raise
        except TimeoutError as error:
            connection.close()
            raise transfer_error("transfer.timeout", f"No connection to {where} in time.") from error
        except OSError as error:
            connection.close()
            if reused and isinstance(error, ConnectionError) and request.method in ("GET", "HEAD"):
                # The server closed the idle connection while we asked: what may be asked twice is asked again.
                return self._mapped(self._connection(place), place, request, pace, reused=False)
            bad_certificate = type(error).__name__ == "SSLCertVerificationError"
            code = "transfer.certificate" if bad_certificate else "transfer.unreachable"
            raise transfer_error(code, f"{where} cannot be reached: {error}.") from error
        except (http.client.HTTPException, ValueError) as error:
            connection.close()
            raise transfer_error(
                "transfer.protocol", f"{where} does not answer in HTTP: {type(error).__name__}."
            ) from error

    def _exchange(self, connection: WatchedConnection, place: Place, request: Request, pace: Pace) -> Answer:
        connection.pace = pace
        if connection.watched is not None:
            connection.watched.pace = pace
        pace.allow(MAX_HEAD, "transfer.protocol")
        parts = urllib.parse.urlsplit(request.url)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        if place[0] == "http" and proxy_for(place[1], self._settings):
            target = request.url.partition("#")[0]
        connection.putrequest(request.method, target, skip_accept_encoding=True)
        connection.putheader("User-Agent", "pcm")
        connection.putheader("Accept-Encoding", "identity")
        wanted = range_field(request)
        if wanted is not None:
            connection.putheader("Range", wanted)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        if request.method in ("POST", "PUT"):
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body if request.method in ("POST", "PUT") else None)
        response = connection.getresponse()
        answer = WebAnswer(self, connection, place, response, request)
        # Chunked bodies carry up to six bytes of frame for one of content; their content is counted again in `read_into`.
        pace.allow(2 * answer.most + MAX_HEAD)
        return answer


class WebAnswer:
    """One HTTP answer; an `Answer`.

    Attributes:
        most: Bytes of body that it may have.
    """

    def __init__(
        self,
        web: Web,
        connection: WatchedConnection,
        place: Place,
        response: http.client.HTTPResponse,
        request: Request,
    ) -> None:
        self._web = web
        self._connection = connection
        self._place = place
        self._response = response
        self._came = 0
        self._finished = False
        self.head = Head(response.status, {name.lower(): value for name, value in response.getheaders()})
        # a whole file instead of a range, of which `ranges.CutOut` reads no more than it needs
        self._cut = response.status == 200 and bool(request.offset or request.length)
        self.most = request.max_bytes + (request.offset if self._cut else 0)
        if response.status == 206:
            self.most = max(request.max_bytes - request.have, 0)
        self._promised = self._check(request)
        if response.status == 206 and self._promised is not None:
            self.most = self._promised
        counted = response.getheader("content-length") is not None and not response.chunked
        self._left = self._promised if counted or self._promised == 0 else None

    def read_into(self, buffer: memoryview) -> int:
        """See `Answer.read_into`."""
        if self._left == 0:
            self._finish()
            return 0
        try:
            count = self._read(buffer)
        except (http.client.IncompleteRead, ConnectionError) as error:
            raise self._broken() from error
        except (http.client.HTTPException, ValueError) as error:
            raise transfer_error("transfer.protocol", "The server's body is not in HTTP.") from error
        except OSError as error:
            raise transfer_error(
                "transfer.truncated", f"The connection broke after {self._came} bytes: {error}."
            ) from error
        self._came += count
        if self._came > self.most:
            raise transfer_error("transfer.too_long", f"The server sent more than the {self.most} bytes that it may.")
        if not count and self._promised is not None and self._came != self._promised:
            raise self._broken()
        if self._left is not None:
            self._left -= count
        elif not count:
            self._finish()
        return count

    def _read(self, buffer: memoryview) -> int:
        """Read once. Past the response's own accounts where the length is known: whatever has come, and no second copy."""
        if self._left is not None:
            return int(self._response.fp.readinto1(buffer[: self._left]))
        data = self._response.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """See `Answer.close`."""
        if not self._finished:
            self._response.close()
            self._connection.close()

    def _broken(self) -> TransferError:
        return transfer_error(
            "transfer.truncated", f"The server stopped after {self._came} bytes, before the end that it promised."
        )

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        self._response.close()
        if not self._response.will_close and self._connection.sock is not None:
            self._web.keep(self._place, self._connection)

    def _check(self, request: Request) -> int | None:
        """Look at the head before any byte of the body; returns the length that is to come, or None if it is not told."""
        headers, status = self._response.headers, self._response.status
        if status < 200 or status > 599:
            raise transfer_error("transfer.protocol", f"The server answered with the status {status}.")
        if 300 <= status < 400 and status != 304:
            place = printable(self.head.headers.get("location", "nowhere"), 200)
            raise transfer_error(
                "transfer.redirected", f"{request.url} answers with a redirect to {place}; redirects are not followed."
            )
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise transfer_error("transfer.protocol", "The server encoded the body though it was asked not to.")
        transfer_encodings = headers.get_all("transfer-encoding", [])
        if transfer_encodings and [value.strip().lower() for value in transfer_encodings] != ["chunked"]:
            raise transfer_error("transfer.protocol", "The server's transfer encoding is unknown.")
        lengths = set(headers.get_all("content-length", []))
        if len(lengths) > 1 or not all(value.isascii() and value.isdigit() and len(value) < 19 for value in lengths):
            raise transfer_error("transfer.protocol", "The server's Content-Length is not one number.")
        if request.method == "HEAD" or status in (204, 304):
            return 0
        length = int(lengths.pop()) if lengths and not transfer_encodings else None
        if status == 206:
            promised = check_range(request, self.head)
            if length not in (None, promised):
                raise transfer_error("transfer.protocol", "The server's range and its Content-Length are not as long.")
            length = promised
        if length is not None and length > self.most and not self._cut:
            raise transfer_error(
                "transfer.too_long", f"The server wants to send {length} bytes; at most {self.most} are accepted."
            )
        return length
