"""Asking a running service over its local socket, for `pcmsvc` itself when it has no administrator rights, and for `sync`.

Serves step 9 from the outside. It waits no longer than it is told, and believes nothing about the size of an answer.
"""

import os
import socket
import time
from pathlib import Path

from pcm.model.errors import Retry, TransferError
from pcm.protocol.local import MAX_ANSWER_BYTES, Answer, LocalRequest, read_answer, write_request

WAIT_S = 30.0


def ask(path: Path, request: LocalRequest, seconds: float = WAIT_S) -> Answer:
    """Ask one question.

    Raises:
        TransferError: `local.unreachable`: no service listens, or it does not answer in time.
        RequestError: what the service says.
    """
    deadline = time.monotonic() + seconds
    try:
        with _connect(path, seconds) as connection:
            connection.sendall(write_request(request))
            data = bytearray()
            while not data.endswith(b"\n") and len(data) <= MAX_ANSWER_BYTES:
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                piece = connection.recv(1 << 20)
                if not piece:
                    break
                data += piece
    except OSError as error:
        raise TransferError(
            f"The PCM service does not answer at {path} ({error.strerror or error}); is it running?",
            code="local.unreachable",
            retry=Retry.LATER,
        ) from None
    if not data.endswith(b"\n"):
        raise TransferError(f"The PCM service at {path} ended without an answer.", code="local.unreachable")
    return read_answer(bytes(data))


def _connect(path: Path, seconds: float) -> socket.socket:
    # by a descriptor of the folder: a socket's path may have 107 bytes only
    folder = os.open(path.parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection
