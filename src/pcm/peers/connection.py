"""One connection to a peer's server: what has come, what is to go, and how patient one is with it. Serves step 8, below `server`.

It blocks nowhere. Whoever asks slowly, reads slowly or stays without asking is cut; the server decides how much may go at once.
"""

import _socket
import os

HEAD_S = 5.0  # from the first byte of a request to its last
IDLE_S = 20.0  # without any request
WINDOW_S = 10.0  # over which a reader's rate is looked at
LEAST_RATE = 32 * 1024  # bytes a second, below which a reader is cut
PIECE = 256 * 1024


class Connection:
    """See the module.

    Args:
        sock: Accepted; set to not blocking here.
        address: Packed, of the other end.
        now: Seconds on a monotonic clock.
    """

    def __init__(self, sock: _socket.socket, address: bytes, now: float) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.address = address
        self.came = b""
        self.stays = True
        self._pending = b""
        self._file, self._at, self._left = -1, 0, 0
        self._since = now  # of waiting for a request, or of the window of sending
        self._sent = 0
        self._asking = False

    @property
    def sends(self) -> bool:
        """Whether an answer is on its way."""
        return bool(self._pending) or self._left > 0

    @property
    def holds_file(self) -> bool:
        """Whether a file is open for it."""
        return self._file >= 0

    def receive(self, most: int, now: float) -> bool:
        """Take in what has come; False: the other end has gone."""
        try:
            data = self.socket.recv(most)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data and not self._asking:
            self._asking, self._since = True, now
        self.came += data
        return bool(data)

    def begin(self, head: bytes, file: int, at: int, length: int, now: float) -> None:
        """Answer: a head, then `length` bytes of an open file, which is owned from now on (-1: none)."""
        self._pending, self._file, self._at, self._left = head, file, at, length
        self._since, self._sent = now, 0

    def send(self, most: int, now: float) -> int:
        """Send at most `most` bytes of the file; how many, or -1: this connection is over.

        The head of an answer does not count. After the last byte it waits for the next request.
        """
        try:
            if self._pending:
                self._pending = self._pending[self.socket.send(self._pending) :]
                if self._pending:
                    return 0
            if self._left <= 0:
                return 0 if self._settled(now) else -1
            if most <= 0:
                return 0
            count = os.sendfile(self.socket.fileno(), self._file, self._at, min(most, self._left, PIECE))
        except BlockingIOError:
            return 0
        except OSError:
            return -1
        if not count:
            return -1  # the file became shorter: the length that was promised cannot be kept
        self._at, self._left, self._sent = self._at + count, self._left - count, self._sent + count
        if not self._left and not self._settled(now):
            return -1
        return count

    def is_too_slow(self, now: float) -> bool:
        """Whether patience is at its end."""
        if not self.sends:
            return now - self._since > (HEAD_S if self._asking else IDLE_S)
        if now - self._since <= WINDOW_S:
            return False
        slow = self._sent < LEAST_RATE * WINDOW_S
        self._since, self._sent = now, 0
        return slow

    def close(self) -> None:
        """Let go of everything."""
        self._let_go()
        self.socket.close()

    def _settled(self, now: float) -> bool:
        if self.sends:
            return True
        self._let_go()
        self._since, self._asking = now, bool(self.came)
        return self.stays

    def _let_go(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._left = -1, 0
