"""A TCP proxy that counts what passes: bytes in both directions, connections, and (in clear text) HTTP requests."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class Counted:
    """What has passed since `reset`."""

    up: int = 0
    down: int = 0
    connections: int = 0
    requests: int = 0
    statuses: bytes = b""

    def reset(self) -> None:
        """Begin anew."""
        self.up = self.down = self.connections = self.requests = 0
        self.statuses = b""

    @property
    def bytes(self) -> int:
        """Payload of TCP in both directions."""
        return self.up + self.down


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def counting(public: int, port: int) -> Iterator[Counted]:
    """Listen on `public`, pass everything on to `port`, and count it."""
    counted = Counted()
    with socket.create_server(("127.0.0.1", public)) as listener:
        threading.Thread(target=_accept, args=(listener, port, counted), daemon=True).start()
        try:
            yield counted
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, port: int, counted: Counted) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            counted.connections += 1
            far = socket.create_connection(("127.0.0.1", port))
            for source, sink, is_up in ((near, far, True), (far, near, False)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_pass_on, args=(source, sink, counted, is_up), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, counted: Counted, is_up: bool) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if is_up:
                counted.up += len(data)
                counted.requests += data.count(b" HTTP/1.1\r\n")
            else:
                counted.down += len(data)
                if data.startswith(b"HTTP/1.1 "):
                    counted.statuses += data[9:13]
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
