"""An HTTP server that misbehaves on purpose, on real sockets: one path for each way to hurt a client.

Stands in for the servers of steps 6, 8 and 12 in tests and trials. A client that survives every path here, each with its own
error code and within its limits, can be pointed at any network. It listens on 127.0.0.1 only and serves nothing of value.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Misbehaviour = Callable[[socket.socket, threading.Event], None]

OK = b"HTTP/1.1 200 OK\r\n"
PART = b"HTTP/1.1 206 Partial Content\r\n"


def _endlessly(head: bytes, piece: bytes, pause_s: float = 0.0) -> Misbehaviour:
    """Send `head`, then `piece` again and again until the client or the test has had enough."""

    def misbehave(client: socket.socket, stop: threading.Event) -> None:
        client.sendall(head)
        while not stop.wait(pause_s) if pause_s else not stop.is_set():
            client.sendall(piece)

    return misbehave


def _once(answer: bytes, *, hold: bool = False) -> Misbehaviour:
    """Send `answer`, then close; with `hold`, keep the connection open and say no more."""

    def misbehave(client: socket.socket, stop: threading.Event) -> None:
        client.sendall(answer)
        if hold:
            stop.wait()

    return misbehave


def _reset(answer: bytes) -> Misbehaviour:
    """Send `answer`, then break the connection off with RST."""

    def misbehave(client: socket.socket, _: threading.Event) -> None:
        client.sendall(answer)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return misbehave


MISBEHAVIOURS: dict[str, Misbehaviour] = {
    # bodies
    "short": _once(OK + b"Content-Length: 1000\r\n\r\nonly this"),
    "short-chunk": _once(OK + b"Transfer-Encoding: chunked\r\n\r\n400\r\nonly this"),
    "no-last-chunk": _once(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nthis\r\n"),
    "bad-chunk": _once(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nthis\r\n0\r\n\r\n"),
    "reset-in-body": _reset(OK + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1000),
    "huge-length": _once(OK + b"Content-Length: 99999999999999\r\n\r\nx", hold=True),
    "negative-length": _once(OK + b"Content-Length: -1\r\n\r\nx"),
    "text-length": _once(OK + b"Content-Length: many\r\n\r\nx"),
    "two-lengths": _once(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy"),
    "endless": _endlessly(OK + b"\r\n", b"x" * 65536),
    "endless-chunks": _endlessly(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "endless-chunk-extension": _endlessly(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 4096),
    "endless-trailers": _endlessly(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: yes\r\n" * 256),
    "drip": _endlessly(OK + b"Content-Length: 100000\r\n\r\n", b"x", pause_s=0.05),
    "stall": _once(OK + b"Content-Length: 100000\r\n\r\n" + b"x" * 5000, hold=True),
    "encoded": _once(OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"),
    "odd-transfer-encoding": _once(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "wrong-range": _once(
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/4\r\nContent-Length: 4\r\n\r\nthis"
    ),
    "endless-tiny-chunks": _endlessly(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 4096),
    "chunk-extension-flood": _endlessly(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", (b"1;" + b"x" * 8000 + b"\r\nx\r\n") * 8
    ),
    # ranges: bytes 2 to 5 are asked for
    "range-of-many": _once(
        PART + b"Content-Type: multipart/byteranges; boundary=b\r\nContent-Length: 66\r\n\r\n"
        b"--b\r\nContent-Range: bytes 2-5/10\r\n\r\nthis\r\n--b--\r\n12345678901234567"
    ),
    "range-nowhere": _once(PART + b"Content-Length: 4\r\n\r\nthis"),
    "range-of-another-length": _once(PART + b"Content-Range: bytes 2-5/10\r\nContent-Length: 3\r\n\r\nthi"),
    "range-cut": _once(PART + b"Content-Range: bytes 2-3/10\r\nContent-Length: 2\r\n\r\nth"),
    "range-too-long": _once(PART + b"Content-Range: bytes 2-9/10\r\nContent-Length: 8\r\n\r\nthisthat"),
    "range-backwards": _once(PART + b"Content-Range: bytes 5-2/10\r\nContent-Length: 4\r\n\r\nthis"),
    "range-beyond-the-end": _once(PART + b"Content-Range: bytes 2-5/4\r\nContent-Length: 4\r\n\r\nthis"),
    "range-in-other-units": _once(PART + b"Content-Range: lines 2-5/10\r\nContent-Length: 4\r\n\r\nthis"),
    "range-in-chunks-too-short": _once(
        PART + b"Content-Range: bytes 2-5/10\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nth\r\n0\r\n\r\n"
    ),
    "range-in-chunks-too-long": _once(
        PART + b"Content-Range: bytes 2-5/10\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nthisthat\r\n0\r\n\r\n"
    ),
    "range-until-close-too-short": _once(PART + b"Content-Range: bytes 2-5/10\r\n\r\nth"),
    "range-out-of-too-little": _once(OK + b"Content-Length: 1\r\n\r\nx"),
    "range-out-of-endless": _endlessly(OK + b"\r\n", b"xx", pause_s=0.01),
    # heads
    "silent": _once(b"", hold=True),
    "gone": _once(b""),
    "reset": _reset(b""),
    "garbage": _once(b"\x16\x03\x01\x02\x00 this is not HTTP\r\n\r\n"),
    "bad-status": _once(b"HTTP/1.1 banana split\r\n\r\n"),
    "status-999": _once(b"HTTP/1.1 999 Beyond\r\nContent-Length: 0\r\n\r\n"),
    "switching": _once(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    "long-status-line": _endlessly(b"HTTP/1.1 200 ", b"O" * 4096),
    "long-header": _endlessly(OK + b"X-Long: ", b"x" * 4096),
    "many-headers": _endlessly(OK, b"X-Another: header\r\n" * 64),
    "endless-continue": _endlessly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 64),
    "drip-header": _endlessly(OK + b"X-Slow: ", b"x", pause_s=0.05),
    "redirect": _once(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/elsewhere\r\nContent-Length: 0\r\n\r\n"),
    "redirect-permanent": _once(
        b"HTTP/1.1 308 Permanent Redirect\r\nLocation: /elsewhere\x1b[31m\r\nContent-Length: 0\r\n\r\n"
    ),
    # statuses
    "unauthorized": _once(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
    "forbidden": _once(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nnot for you"),
    "missing": _once(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    "broken": _once(b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<h1>"),
    "busy": _once(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"),
    # one that behaves, for comparison
    "good": _once(OK + b'ETag: "1"\r\nContent-Length: 4\r\n\r\ngood'),
    "good-chunked": _once(
        OK + b"Transfer-Encoding: chunked\r\n\r\n2;ext=1\r\ngo\r\n2\r\nod\r\n0\r\nX-Trailer: yes\r\n\r\n"
    ),
    "good-until-close": _once(OK + b"\r\ngood"),
    "range-good": _once(PART + b"Content-Range: bytes 2-5/10\r\nContent-Length: 4\r\n\r\ngood"),
    "range-good-untold": _once(PART + b"Content-Range: bytes 2-5/*\r\nContent-Length: 4\r\n\r\ngood"),
    "range-good-chunked": _once(
        PART + b"Content-Range: bytes 2-5/10\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n"
    ),
    "range-good-until-close": _once(PART + b"Content-Range: bytes 2-5/10\r\n\r\ngood"),
    "range-good-out-of-all": _once(OK + b"Content-Length: 10\r\n\r\n12goodmore"),
    "range-good-out-of-endless": _endlessly(OK + b"\r\n12good", b"x" * 65536),
}


class HostileServer:
    """Serves `MISBEHAVIOURS` by path, and bodies given to it, each connection once. A context manager.

    Args:
        bodies: Path (without the first slash) to a body that is served correctly, whatever it contains.

    Attributes:
        answers: Path to a whole answer, head included, that is sent as it is; may be changed while the server runs.
        url: `http://127.0.0.1:port`.
        requests: The head of each request that came, in order.
    """

    def __init__(self, bodies: dict[str, bytes] | None = None) -> None:
        self._bodies = bodies or {}
        self.answers: dict[str, bytes] = {}
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.requests: list[bytes] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(10)
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65536)
                if not data:
                    return
                head += data
            self.requests.append(head)
            name = head.split(b" ")[1].decode("latin-1").partition("?")[0].strip("/")
            if name in self.answers:
                misbehave = _once(self.answers[name])
            elif name in self._bodies:
                body = self._bodies[name]
                misbehave = _once(OK + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            else:
                misbehave = MISBEHAVIOURS.get(name, MISBEHAVIOURS["missing"])
            misbehave(client, self._stop)
