"""What stands before a site's process and can be stolen: an HTTP server at the site's public address, in the test's own process.

Honest, it passes every request on to `pcm site serve`, as a load balancer would. Stolen, it answers whatever the thief wants, path
by path: other bytes, nothing, or one of `pcm.testing.hostile_server`'s misbehaviours. Reports still come through unless the thief
takes that path too, so that the site hears of the refusals.
"""

import contextlib
import http.client
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from pcm.testing.hostile_server import MISBEHAVIOURS, OK, Misbehaviour

Answer = bytes | Misbehaviour | None
"""A body; a misbehaviour; None: 404."""


class Front:
    """An HTTP server on 127.0.0.1. `url`: its address. `requests`: method and path of each request, in order.

    `upstream`: host and port of the honest server, or None: everything is 404 then. `answers`: path → what the thief says.
    `stolen`: prefix → the only files that are there, by their names below it; only GETs are taken so.
    """

    def __init__(self, upstream: tuple[str, int] | None = None) -> None:
        self.upstream = upstream
        self.answers: dict[str, Answer] = {}
        self.stolen: dict[str, Mapping[str, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def be_honest(self) -> None:
        """Pass everything on again."""
        self.answers.clear()
        self.stolen.clear()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(20)
        with client, contextlib.suppress(OSError, http.client.HTTPException):
            method, path, headers, body = _read_request(client)
            self.requests.append((method, path))
            try:
                answer = self._stolen(method, path)
            except KeyError:
                client.sendall(self._ask_upstream(method, path, headers, body))
                return
            if isinstance(answer, bytes):
                answer_head = OK + f"Content-Length: {len(answer)}\r\nConnection: close\r\n\r\n".encode()
                client.sendall(answer_head + answer)
            else:
                (answer or MISBEHAVIOURS["missing"])(client, self._stop)

    def _stolen(self, method: str, path: str) -> Answer:
        if path in self.answers:
            return self.answers[path]
        for prefix, files in self.stolen.items():
            if method == "GET" and path.startswith(prefix):
                return files.get(path.removeprefix(prefix))
        raise KeyError(path)

    def _ask_upstream(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
        if self.upstream is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        connection = http.client.HTTPConnection(*self.upstream, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                if name.lower() != "connection":
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            content = answer.read()
            lines = [f"HTTP/1.1 {answer.status} {answer.reason}", "Connection: close"]
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            lines += [f"{name}: {value}" for name, value in kept]
            if answer.status != 304 and "content-length" not in {name.lower() for name, _ in kept}:
                lines.append(f"Content-Length: {len(content)}")
            return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content
        except (OSError, http.client.HTTPException):
            return b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        finally:
            connection.close()


_HOP = {"connection", "transfer-encoding", "keep-alive"}


def _read_request(client: socket.socket) -> tuple[str, str, list[tuple[str, str]], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            raise OSError("the client has gone")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in rest)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    while len(body) < length:
        piece = client.recv(65536)
        if not piece:
            raise OSError("the client has gone")
        body += piece
    if any(name.lower() == "transfer-encoding" for name, _ in headers):
        while not body.endswith(b"0\r\n\r\n"):
            body += client.recv(65536)
        body = _unchunk(body)
        kept = [pair for pair in headers if pair[0].lower() != "transfer-encoding"]
        return method, path, [*kept, ("Content-Length", str(len(body)))], body
    return method, path, headers, body


def _unchunk(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        whole, body = whole + body[:length], body[length + 2 :]
    return whole
