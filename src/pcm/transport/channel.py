"""The way to the transfer process, read and written with a time limit; it carries open files too.

Serves steps 6, 8 and 12 on the privileged side: `service.transfer_start` makes the channel and the process, `client` speaks
over it. A process that neither reads nor answers must not hold the service up, so no call here waits longer than it is told.
Open files go one way only: to the process, for reading only.
"""

import array
import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Protocol

from pcm.transport.framing import transfer_error


class Channel(Protocol):
    """A way to one transfer process."""

    def read_into(self, buffer: memoryview, timeout_s: float) -> int:
        """Put what there is into `buffer` as soon as there is anything; 0 when the process has closed its end.

        Raises:
            TransferError: `transfer.timeout`: nothing came in `timeout_s` seconds.
        """

    def write(self, data: bytes, timeout_s: float) -> None:
        """Write all of `data`.

        Raises:
            TransferError: `transfer.timeout`, or `transfer.protocol` when the process has gone.
        """

    def send_file(self, data: bytes, file: int, timeout_s: float) -> None:
        """Write `data`, and with its first byte give the process an open file, of which it can only read.

        Args:
            file: Descriptor of a regular file; stays the caller's, who may close it at once. What the process gets shares no
                position with it.

        Raises:
            TransferError: as `write`.
        """

    def close(self) -> None:
        """End the conversation; the process ends when its input does."""


class SocketChannel:
    """A `Channel` over one end of a stream socket pair, which it owns.

    Args:
        on_close: Called once, after the socket is closed: to reap the process.
    """

    def __init__(self, sock: socket.socket, on_close: Callable[[], None] | None = None) -> None:
        self._sock = sock
        self._on_close = on_close
        self._open = True
        sock.setblocking(False)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(sock, select.POLLIN)
        self._writable.register(sock, select.POLLOUT)

    def read_into(self, buffer: memoryview, timeout_s: float) -> int:
        """See `Channel.read_into`."""
        while True:
            if not self._readable.poll(max(timeout_s, 0) * 1000):
                raise transfer_error("transfer.timeout", "The transfer process did not answer in time.")
            try:
                return self._sock.recv_into(buffer)
            except BlockingIOError:
                continue
            except ConnectionError:
                return 0

    def write(self, data: bytes, timeout_s: float) -> None:
        """See `Channel.write`."""
        self._write(data, (), timeout_s)

    def send_file(self, data: bytes, file: int, timeout_s: float) -> None:
        """See `Channel.send_file`."""
        # another open file of the same inode: for reading, and with a position of its own
        reading = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._write(data, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reading]))], timeout_s)
        finally:
            os.close(reading)

    def _write(
        self, data: bytes, beside: "list[tuple[int, int, array.array[int]]] | tuple[()]", timeout_s: float
    ) -> None:
        deadline = time.monotonic() + timeout_s
        view = memoryview(data)
        while view:
            if not self._writable.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise transfer_error("transfer.timeout", "The transfer process does not take the request.")
            try:
                view = view[self._sock.sendmsg([view], beside, socket.MSG_NOSIGNAL) :]
                beside = ()
            except BlockingIOError:
                continue
            except OSError as error:
                raise transfer_error("transfer.protocol", "The transfer process has ended.") from error

    def close(self) -> None:
        """See `Channel.close`."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(OSError):
            self._sock.close()
        if self._on_close is not None:
            self._on_close()
