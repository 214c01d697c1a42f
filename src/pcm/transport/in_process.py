"""A transfer 'process' that is a thread: the same code behind the same pipes, for tools that run without privileges.

Serves steps 1 and 2 (the administrator program) and tests. The PCM service never uses it: there the code that parses what
networks send runs in a process of its own, without rights.
"""

import contextlib
import socket
import threading

from pcm.model.errors import TransferError
from pcm.transport.asks import SocketAsks
from pcm.transport.channel import SocketChannel
from pcm.transport.client import TransferClient
from pcm.transport.framing import Settings
from pcm.transport.transfer import saying, serve


def open_thread() -> SocketChannel:
    """Start a thread that serves transfers, and return the way to it; the thread ends when the channel is closed."""
    ours, theirs = socket.socketpair()
    threading.Thread(target=_run, args=(theirs,), name="transfer", daemon=True).start()
    return SocketChannel(ours)


def transfer_in_thread(settings: Settings | None = None) -> TransferClient:
    """A `TransferClient` whose transfers happen in this process."""
    return TransferClient(open_thread, settings or Settings())


def _run(sock: socket.socket) -> None:
    asks = SocketAsks(sock)
    with sock, contextlib.closing(asks):
        try:
            serve(asks, saying(sock), [])
        except (TransferError, ConnectionError):
            return  # the other side has gone or lost its senses; its own error says so
