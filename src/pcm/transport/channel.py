"""The two pipes to the transfer process, read and written with a time limit.

Serves steps 6, 8 and 12 on the privileged side: `service.machine` makes the pipes and the process, `client` speaks over
them. A process that neither reads nor answers must not hold the service up, so no call here waits longer than it is told.
"""

import os
import select
import time
from collections.abc import Callable
from typing import Protocol

from pcm.transport.framing import transfer_error


class Channel(Protocol):
    """A way to one transfer process."""

    def read(self, most: int, timeout_s: float) -> bytes:
        """At most `most` bytes as soon as there are any; empty when the process has closed its end.

        Raises:
            TransferError: `transfer.timeout`: nothing came in `timeout_s` seconds.
        """

    def write(self, data: bytes, timeout_s: float) -> None:
        """Write all of `data`.

        Raises:
            TransferError: `transfer.timeout`, or `transfer.protocol` when the process has gone.
        """

    def close(self) -> None:
        """End the conversation; the process ends when its input does."""


class PipeChannel:
    """A `Channel` over two file descriptors (pipes or a socket twice), which it owns.

    Args:
        answers: Descriptor that the process's answers are read from.
        asks: Descriptor that requests are written to; may be the same one.
        on_close: Called once, after both are closed: to reap the process.
    """

    def __init__(self, answers: int, asks: int, on_close: Callable[[], None] | None = None) -> None:
        self._answers = answers
        self._asks = asks
        self._on_close = on_close
        self._open = True
        os.set_blocking(asks, False)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(answers, select.POLLIN)
        self._writable.register(asks, select.POLLOUT)

    def read(self, most: int, timeout_s: float) -> bytes:
        """See `Channel.read`."""
        if not self._readable.poll(max(timeout_s, 0) * 1000):
            raise transfer_error("transfer.timeout", "The transfer process did not answer in time.")
        try:
            return os.read(self._answers, most)
        except ConnectionError:
            return b""

    def write(self, data: bytes, timeout_s: float) -> None:
        """See `Channel.write`."""
        deadline = time.monotonic() + timeout_s
        view = memoryview(data)
        while view:
            if not self._writable.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise transfer_error("transfer.timeout", "The transfer process does not take the request.")
            try:
                view = view[os.write(self._asks, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise transfer_error("transfer.protocol", "The transfer process has ended.") from error

    def close(self) -> None:
        """See `Channel.close`."""
        if not self._open:
            return
        self._open = False
        for descriptor in {self._asks, self._answers}:
            os.close(descriptor)
        if self._on_close is not None:
            self._on_close()
