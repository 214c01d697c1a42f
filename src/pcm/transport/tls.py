"""TLS over a watched socket, with reads of its own size.

Serves steps 6, 8 and 12, inside the transfer process, below `wire`. `ssl.SSLSocket` asks the system twice for each record of 16
KiB, and waits outside of any `Pace`; here the bytes of many records are read at once, the handshake keeps the exchange's
limits too, and records are decrypted from memory straight into the reader's buffer. Which servers are believed is for
`wire.tls_context` to say.
"""

import socket
import ssl
from typing import Any

from pcm.transport.framing import transfer_error
from pcm.transport.pace import Pace
from pcm.transport.watched import WatchedSocket

MAX_HANDSHAKE = 512 * 1024  # bytes; certificates with all their authorities are 10 KiB
_READ = 256 * 1024


class SecuredSocket(WatchedSocket):
    """A `WatchedSocket` that speaks TLS.

    Args:
        sock: Connected; closed by `close`, not if this fails.
        host: The name that the certificate must have.

    Raises:
        OSError: `ssl.SSLError` among them, if there is no agreement.
        TransferError: the exchange's time is up.
    """

    answers = False

    def __init__(self, sock: socket.socket, pace: Pace, context: ssl.SSLContext, host: str) -> None:
        super().__init__(sock, pace)
        self._coming, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._coming, self._going, server_hostname=host)
        self._cipher = memoryview(bytearray(_READ))
        came = 0
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                came += self._fetch()
            except ssl.SSLError:
                self._flush()  # tells the server why
                raise
            if came > MAX_HANDSHAKE:
                raise transfer_error("transfer.protocol", "The server does not come to an end of its handshake.")
        self._flush()

    def receive_into(self, buffer: memoryview) -> int:
        """Read once: what has come, as far as it fits."""
        filled, room = 0, len(buffer)
        while True:
            try:
                while filled < room:
                    count = self._tls.read(room - filled, buffer[filled:])
                    if not count:
                        return self._counted(filled)
                    filled += int(count)
                return self._counted(filled)
            except ssl.SSLWantReadError:
                if filled:
                    return self._counted(filled)
                if self._going.pending:
                    self._flush()  # an answer to a change of keys
                self._fetch()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return self._counted(filled)  # that too little came is noticed by its length or its hash

    def sendall(self, data: Any) -> None:
        """See `WatchedSocket.sendall`."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
            self._flush()

    def is_quiet(self) -> bool:
        """See `WatchedSocket.is_quiet`."""
        return not self._coming.pending and not self._tls.pending() and super().is_quiet()

    def _counted(self, count: int) -> int:
        self.pace.count(count)
        return count

    def _flush(self) -> None:
        if self._going.pending:
            super().sendall(self._going.read())

    def _fetch(self) -> int:
        count = self._receive_once(self._cipher)
        if count:
            self._coming.write(self._cipher[:count])
        else:
            self._coming.write_eof()
        return count
