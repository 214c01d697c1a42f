"""A socket, every single read of which is watched by a `Pace`.

Serves steps 6, 8 and 12, inside the transfer process, below `wire` and `tls`. `http.client` alone gives each *read* a time-out,
so that one byte every few seconds lasts for ever.
"""

import io
import select
import socket
import time
from typing import Any

from pcm.transport.pace import Pace

TICK_S = 1.0  # a read that waits for longer is begun again
READ_AHEAD = 8 * 1024  # bytes of a body that may come with the head; larger reads go past the buffer


class WatchedSocket:
    """The part of a socket that `http.client` uses, with a `Pace` asked before and told after each read.

    The file made by `makefile` keeps the socket open after `close`, as real sockets do: `http.client` closes the
    connection while a body that ends with the connection is still being read.
    """

    answers = True  # what comes is the answer itself

    def __init__(self, sock: socket.socket, pace: Pace) -> None:
        self._sock = sock
        self._closed = False
        self._readers = 0
        self._waits = -1.0
        self.pace = pace

    def makefile(self, mode: str, *_: object) -> io.BufferedReader:
        """A buffered reader; `mode` is always 'rb' here."""
        if mode != "rb":
            raise io.UnsupportedOperation(mode)
        self._readers += 1
        return io.BufferedReader(_WatchedReader(self), READ_AHEAD)

    def receive_into(self, buffer: memoryview) -> int:
        """Read once, waiting in portions that the pace allows."""
        count = self._receive_once(buffer)
        self.pace.count(count)
        return count

    def _receive_once(self, buffer: memoryview) -> int:
        most = self.pace.hold(len(buffer))
        while True:
            before = time.monotonic()
            self._wait_at_most(self.pace.timeout(before))
            try:
                count = self._sock.recv_into(buffer, most)
            except TimeoutError:
                self.pace.record(0, time.monotonic() - before)
                continue
            self.pace.record(count, time.monotonic() - before, answers=self.answers)
            return count

    def sendall(self, data: Any) -> None:
        """Send everything within what is left of the time."""
        self._waits = self.pace.timeout(time.monotonic())
        self._sock.settimeout(self._waits)
        self._sock.sendall(data)

    def _wait_at_most(self, seconds: float) -> None:
        """Limit the next read. Each change costs a call to the system, so what is long is not told to the millisecond."""
        wanted = min(seconds, TICK_S)
        if wanted != self._waits:
            self._waits = wanted
            self._sock.settimeout(wanted)

    def is_quiet(self) -> bool:
        """Whether an idle connection can be used again: neither closed by the server nor followed by stray bytes."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poller.poll(0)

    def close(self) -> None:
        """Close now, or when the last reader is closed."""
        self._closed = True
        if not self._readers:
            self._sock.close()

    def release(self) -> None:
        """One reader is closed."""
        self._readers -= 1
        if self._closed and not self._readers:
            self._sock.close()


class _WatchedReader(io.RawIOBase):
    def __init__(self, owner: WatchedSocket) -> None:
        super().__init__()
        self._owner = owner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._owner.receive_into(memoryview(buffer))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._owner.release()
