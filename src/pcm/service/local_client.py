"""Asking a running service over its local socket: one question and its answer, or the lines of `watch` as they come.

Serves step 9 from the outside, for `pcmapp`, and for `pcmsvc` itself when it has no administrator rights. It waits no longer
than it is told, and believes nothing: neither the size of an answer nor who listens. Before a word is said, the kernel tells
whose process the other end is; whoever is no administrator may not play the service.
"""

import os
import select
import socket
import struct
import time
from pathlib import Path
from typing import Self

from pcm.model.errors import Retry, TransferError
from pcm.protocol.local import DEFAULT_SOCKET, MAX_ANSWER_BYTES, Answer, LocalRequest, read_answer, write_request

WAIT_S = 30.0
_PIECE = 1 << 20


class Stream:
    """One question whose answer has several lines. Close it, or use it as a context manager.

    Raises:
        TransferError: `local.unreachable`, `local.impostor`.
    """

    def __init__(self, path: Path, request: LocalRequest, seconds: float = WAIT_S) -> None:
        self._path = path
        self._data = bytearray()
        self._connection = _connect(path, seconds)
        try:
            self._connection.settimeout(seconds)
            self._connection.sendall(write_request(request))
        except OSError as error:
            self._connection.close()
            raise _unreachable(path, error) from None

    def read(self, seconds: float) -> Answer | None:
        """The next line; None if none came in this time.

        Raises:
            TransferError: `local.unreachable`: the service has ended it.
            RequestError: what the service says, or `protocol.*`.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._data:
            if len(self._data) > MAX_ANSWER_BYTES:
                raise TransferError(f"The PCM service at {self._path} says too much at once.", code="local.unreachable")
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            try:
                piece = self._connection.recv(_PIECE)
            except OSError as error:
                raise _unreachable(self._path, error) from None
            if not piece:
                raise TransferError(
                    f"The PCM service at {self._path} ended without an answer.", code="local.unreachable"
                )
            self._data += piece
        line, _, rest = bytes(self._data).partition(b"\n")
        self._data = bytearray(rest)
        return read_answer(line)

    def close(self) -> None:
        """Hear no more. Safe to call twice."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(path: Path, request: LocalRequest, seconds: float = WAIT_S) -> Answer:
    """Ask one question.

    Raises:
        TransferError: `local.unreachable`: no service listens, or it does not answer in time; `local.impostor`.
        RequestError: what the service says.
    """
    with Stream(path, request, seconds) as stream:
        answer = stream.read(seconds)
    if answer is None:
        raise _unreachable(path, TimeoutError("timed out"))
    return answer


def _connect(path: Path, seconds: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # by a descriptor of the folder: a socket's path may have 107 bytes only
        folder = os.open(path.parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.settimeout(seconds)
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        _check_owner(connection, path)
    except OSError as error:
        connection.close()
        raise _unreachable(path, error) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _check_owner(connection: socket.socket, path: Path) -> None:
    """The service is an administrator's process; one that was started with `--home`, for a trial, may be one's own."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    owner = struct.unpack("3i", credentials)[1]
    if owner == 0 or (owner == os.geteuid() and str(path) != DEFAULT_SOCKET):
        return
    raise TransferError(
        f"Whoever listens at {path} is user {owner} and no administrator: it is not the PCM service, and was told nothing.",
        code="local.impostor",
    )


def _unreachable(path: Path, error: OSError) -> TransferError:
    return TransferError(
        f"The PCM service does not answer at {path} ({error.strerror or error}); is it running?",
        code="local.unreachable",
        retry=Retry.LATER,
    )
