"""Starting the transfer process: the unprivileged network side, under an account of its own.

Serves steps 6, 8 and 12. Started before the rest of a check is imported, so that it is up when the first question is asked. It
gets no key and no right, and files only for reading; `transport.client` speaks with it and believes it nothing.
"""

import socket

from pcm.protocol.enrolment import ClientConfiguration
from pcm.service.machine.interface import Machine, OwnProgram
from pcm.transport.channel import SocketChannel
from pcm.transport.framing import Settings


class TransferStart:
    """Starts transfer processes under the account without rights; the first one at once, so that it is up when needed."""

    def __init__(self, machine: Machine, configuration: ClientConfiguration) -> None:
        self._machine = machine
        self._account = configuration.transfer_account
        self._first: SocketChannel | None = self._spawn()

    def __call__(self) -> SocketChannel:
        """The way to a fresh transfer process.

        Raises:
            MachineError: it cannot be started.
        """
        first, self._first = self._first, None
        return first or self._spawn()

    def discard(self) -> None:
        """End the one that was started early and never used."""
        if self._first is not None:
            self._first.close()
            self._first = None

    def _spawn(self) -> SocketChannel:
        account = self._machine.transfer_account(self._account)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                file = theirs.fileno()
                program = OwnProgram(
                    "pcm.transport.start", arguments=(str(file),), account=account, kept_descriptors=(file,)
                )
                child = self._machine.spawn(program)
        except BaseException:
            ours.close()
            raise
        return SocketChannel(ours, child.close)


def transfer_settings(configuration: ClientConfiguration) -> Settings:
    """How the transfer process reaches servers, by this client's configuration."""
    return Settings(ca_file=configuration.ca_file, proxy=configuration.proxy)
