"""A plain file server with ranges and tags that counts what it sends, and that tests can slow down, change and interrupt."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

_PIECE = 16 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


class RangeServer:
    """Serves `files` by path.

    Attributes:
        files: Path to content and entity tag.
        sent: Bytes of bodies that were sent.
        asked: The Range field of each request, or nothing.
        knows_ranges: Whether it does.
        rate: Bytes a second; 0: as fast as can be.
        on_sent: Told how much has been sent in all, again and again.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, str]] = {}
        self.sent = 0
        self.asked: list[str] = []
        self.knows_ranges = True
        self.rate = 0
        self.on_sent: Callable[[int], None] = lambda _: None
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: RangeServer

    def do_GET(self) -> None:
        served = self.served
        served.asked.append(self.headers.get("Range", ""))
        found = served.files.get(self.path)
        if found is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, tag = found
        wanted = _RANGE.match(self.headers.get("Range", "")) if served.knows_ranges else None
        if self.headers.get("If-Range", tag) != tag:
            wanted = None
        first, last = (int(wanted[1]), int(wanted[2] or len(content))) if wanted else (0, len(content))
        last = min(last, len(content) - 1)
        if wanted and first > last:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("ETag", tag)
        self.end_headers()
        try:
            self._send(content, first, last + 1)
        except OSError:
            self.close_connection = True

    def _send(self, content: bytes, at: int, end: int) -> None:
        served, began, first = self.served, time.monotonic(), at
        while at < end:
            piece = content[at : min(at + _PIECE, end)]
            self.wfile.write(piece)
            at += len(piece)
            served.sent += len(piece)
            served.on_sent(served.sent)
            if served.rate:
                time.sleep(max(0.0, began + (at - first) / served.rate - time.monotonic()))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def range_server() -> Iterator[RangeServer]:
    """One that runs."""
    served = RangeServer()
    handler = type("Handler", (_Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        served.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
