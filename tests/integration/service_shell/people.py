"""Other people at the same computer, as the kernel sees them: connections that belong to another user id."""

import contextlib
import ctypes
import json
import os
import socket
import stat
from collections.abc import Iterator
from typing import Any

from pcm.protocol.local import LocalRequest, write_request
from tests.integration.service_shell.test_supervisor import Resident

ANNA, BEN = 1, 2  # `daemon` and `bin`: accounts that every Linux has, without any right
_SETRESUID = {"x86_64": 117, "aarch64": 147}[os.uname().machine]


@contextlib.contextmanager
def being(user_id: int) -> Iterator[None]:
    """Be somebody else for a moment, in this thread alone: what it connects or listens to bears that user's id (unix(7)).

    The C library changes all threads of a process together; the kernel does not.
    """
    _become(user_id)
    try:
        yield
    finally:
        _become(0)


def _become(user_id: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SETRESUID, -1, user_id, -1) != 0:
        raise OSError(ctypes.get_errno(), "setresuid")


def connect(resident: Resident, user_id: int) -> socket.socket:
    resident.wait_until(lambda: stat.S_IMODE(resident.client.places.socket.stat().st_mode) == 0o666)  # just begun
    folder = os.open(resident.client.places.runtime, os.O_RDONLY)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    try:
        with being(user_id):
            connection.connect(f"/proc/self/fd/{folder}/pcmsvc.sock")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection


class Line:
    """A connection of one user, read line by line."""

    def __init__(self, resident: Resident, user_id: int, request: LocalRequest | bytes) -> None:
        self.connection = connect(resident, user_id)
        with contextlib.suppress(OSError):  # it was refused already
            self.connection.sendall(request if isinstance(request, bytes) else write_request(request))
        self._answers = self.connection.makefile("rb")

    def read(self, seconds: float = 30.0) -> Any:
        """The next line; None when the other end has closed."""
        self.connection.settimeout(seconds)
        try:
            line = self._answers.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def close(self) -> None:
        self._answers.close()
        self.connection.close()


def ask_as(resident: Resident, user_id: int, verb: str, wanted: str | None = None, **more: Any) -> Any:
    """One question of one user, and its answer."""
    line = Line(resident, user_id, LocalRequest(verb, wanted, **more))  # type: ignore[arg-type]
    try:
        return line.read()
    finally:
        line.close()
