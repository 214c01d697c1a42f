"""Starting the transfer process: the unprivileged network side, under an account of its own.

Serves steps 6, 8 and 12. Started before the rest of a check is imported, so that it is up when the first question is asked. It
gets no file, no key and no right; `transport.client` speaks with it and believes it nothing.
"""

from pcm.protocol.enrolment import ClientConfiguration
from pcm.service.machine.interface import Machine, OwnProgram
from pcm.transport.channel import PipeChannel
from pcm.transport.framing import Settings


class TransferStart:
    """Starts transfer processes under the account without rights; the first one at once, so that it is up when needed."""

    def __init__(self, machine: Machine, configuration: ClientConfiguration) -> None:
        self._machine = machine
        self._account = configuration.transfer_account
        self._first: PipeChannel | None = self._spawn()

    def __call__(self) -> PipeChannel:
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

    def _spawn(self) -> PipeChannel:
        account = self._machine.transfer_account(self._account)
        child = self._machine.spawn(OwnProgram("pcm.transport.start", account=account, pipes=True))
        return PipeChannel(child.stdout, child.stdin, child.close)


def transfer_settings(configuration: ClientConfiguration) -> Settings:
    """How the transfer process reaches servers, by this client's configuration."""
    return Settings(ca_file=configuration.ca_file, proxy=configuration.proxy)
