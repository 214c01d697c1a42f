"""The way from a peer's server to the service that opens files for it. Serves step 8, in the process without rights.

One question at a time, each one packet, over the socket that the process was born with. The service opens nothing but files of
the store by their hash; what comes back besides is a state (`wire`).
"""

import _socket
import os
import sys

from pcm.peers.wire import ABSENT, ID, LOOK, MAX_LOOK, OPEN, Picture, parse_picture

_ANSWER_S = 10.0
_SCM_RIGHTS = 1


class BrokerGone(Exception):  # noqa: N818 - it is no mistake of anybody's: the service has stopped
    """The service does not answer any more: this process has nothing to live for."""


class Broker:
    """Asks the service. Args: `descriptor`: of a sequential packet socket, owned from now on."""

    def __init__(self, descriptor: int) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
        self._socket.settimeout(_ANSWER_S)

    def fileno(self) -> int:
        """Polls readable when the service has gone."""
        return self._socket.fileno()

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()

    def orders(self) -> bytes:
        """The first packet: what to do.

        Raises:
            BrokerGone: there is none.
        """
        return self._receive(1024)[0]

    def look(self, names: list[bytes]) -> Picture:
        """What this computer has or wants of some hashes.

        Raises:
            BrokerGone: nobody answers.
        """
        states: list[tuple[bytes, int]] = []
        fetch = bytes(ID)
        for at in range(0, len(names), MAX_LOOK):
            some = names[at : at + MAX_LOOK]
            self._send(LOOK + b"".join(some))
            try:
                told = parse_picture(self._receive(ID + 2 * MAX_LOOK)[0], len(some))
            except ValueError as error:
                raise BrokerGone from error
            fetch = told.fetch
            states += told.states
        return Picture(fetch, tuple(states))

    def open(self, name: bytes) -> tuple[bytes, int]:
        """The state of one hash, and a descriptor of its bytes, or -1.

        Raises:
            BrokerGone: nobody answers.
        """
        self._send(OPEN + name)
        told, descriptor = self._receive(2)
        return told[:1] or ABSENT, descriptor

    def _send(self, packet: bytes) -> None:
        try:
            self._socket.send(packet)
        except OSError as error:
            raise BrokerGone from error

    def _receive(self, most: int) -> tuple[bytes, int]:
        try:
            data, rights, _, _ = self._socket.recvmsg(most, _socket.CMSG_LEN(4), _socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise BrokerGone from error
        given = -1
        for level, kind, numbers in rights:
            if level == _socket.SOL_SOCKET and kind == _SCM_RIGHTS:
                for at in range(0, len(numbers) - 3, 4):
                    if given >= 0:
                        os.close(given)
                    given = int.from_bytes(numbers[at : at + 4], sys.byteorder)
        if not data:
            raise BrokerGone
        return data, given
