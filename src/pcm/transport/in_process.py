"""A transfer 'process' that is a thread: the same code behind the same pipes, for tools that run without privileges.

Serves steps 1 and 2 (the administrator program) and tests. The PCM service never uses it: there the code that parses what
networks send runs in a process of its own, without rights.
"""

import socket
import threading

from pcm.model.errors import TransferError
from pcm.transport.channel import PipeChannel
from pcm.transport.client import TransferClient
from pcm.transport.framing import Settings
from pcm.transport.transfer import serve


def open_thread() -> PipeChannel:
    """Start a thread that serves transfers, and return the way to it; the thread ends when the channel is closed."""
    ours, theirs = socket.socketpair()
    threading.Thread(target=_run, args=(theirs,), name="transfer", daemon=True).start()
    descriptor = ours.detach()
    return PipeChannel(descriptor, descriptor)


def transfer_in_thread(settings: Settings | None = None) -> TransferClient:
    """A `TransferClient` whose transfers happen in this process."""
    return TransferClient(open_thread, settings or Settings())


def _run(sock: socket.socket) -> None:
    with sock, sock.makefile("rb") as asks:
        try:
            serve(asks, sock.sendall, [])
        except (TransferError, ConnectionError):
            return  # the other side has gone or lost its senses; its own error says so
