"""What the privileged side says, as the transfer process hears it: lines, bodies, and open files beside them.

Serves steps 6, 8 and 12, inside the transfer process, below `transfer`. Files come by SCM_RIGHTS (unix(7)), for reading only.
"""

import collections
import os
import socket
from typing import Protocol

from pcm.transport.framing import transfer_error

_AHEAD = 64 * 1024
_FILES = 4  # descriptors in one message at most; the other side sends one


class Asks(Protocol):
    """What is asked."""

    def readline(self, most: int) -> bytes:
        """One line with its end; without, if it is longer than `most` or the last one; empty: nobody asks any more."""

    def read(self, count: int) -> bytes:
        """So many bytes, fewer at the end."""

    def take_file(self) -> int:
        """The descriptor that came with what was read last; the caller's own from now on.

        Raises:
            TransferError: `transfer.protocol`: none came.
        """


class SocketAsks:
    """`Asks` over one end of a stream socket pair, which stays the caller's."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._ahead = bytearray()
        self._files: collections.deque[int] = collections.deque()

    def readline(self, most: int) -> bytes:
        """See `Asks.readline`."""
        while (end := self._ahead.find(b"\n", 0, most)) < 0:
            if len(self._ahead) >= most or not self._fill():
                return self._take(most)
        return self._take(end + 1)

    def read(self, count: int) -> bytes:
        """See `Asks.read`."""
        while len(self._ahead) < count and self._fill():
            pass
        return self._take(count)

    def take_file(self) -> int:
        """See `Asks.take_file`."""
        if not self._files:
            raise transfer_error("transfer.protocol", "An open file was to come and did not.")
        return self._files.popleft()

    def close(self) -> None:
        """Close files that nobody took."""
        while self._files:
            os.close(self._files.popleft())

    def _take(self, count: int) -> bytes:
        data = bytes(memoryview(self._ahead)[:count])
        del self._ahead[:count]
        return data

    def _fill(self) -> bool:
        data, files, _, _ = socket.recv_fds(self._sock, _AHEAD, _FILES)
        self._files.extend(files)
        self._ahead += data
        return bool(data)
