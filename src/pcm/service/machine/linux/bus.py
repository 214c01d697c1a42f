"""Talking to systemd itself, over the socket that `systemctl` uses as root. Serves `linux.systemd` (step 10).

Not `systemd-run`: its client dies with the worker and the exit code with it, before version 254 it replaces `$NAME` in
arguments, and it costs a process start. One connection, calls and their replies in order; of signals only the ends of jobs
are read, the others just wake somebody who then asks for the state. The peer is PID 1: trusted, but its messages are bounded.
Source: D-Bus specification ("Authentication protocol", "Message format"); org.freedesktop.systemd1(5).
"""

import contextlib
import os
import select
import socket
import struct
import time
from typing import Any

from pcm.model.errors import MachineError
from pcm.service.machine.linux.wire import WireError, pack, unpack

_SOCKET = "/run/systemd/private"
_SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
_MAX_MESSAGE = 16 << 20
_JOB_S = 120.0
_KEPT_JOBS = 100
_CALL, _REPLY, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE, _DESCRIPTORS = 1, 2, 3, 4, 5, 6, 8, 9


class BusError(MachineError):
    """systemd refused a call; `name` is the D-Bus error name. Code `machine.systemd`."""

    default_code = "machine.systemd"

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"systemd refused: {message} ({name}).")
        self.name = name


class Bus:
    """One connection to PID 1.

    Raises:
        MachineError: `machine.systemd`: it does not answer.
    """

    _flags = 0  # of each call's header

    def __init__(self, path: str = _SOCKET, timeout_s: float = 25.0) -> None:
        self._timeout_s = timeout_s
        self._serial = 0
        self._received = bytearray()
        self._jobs: dict[str, str] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(path)
            self._authenticate()
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise MachineError(f"systemd does not answer at {path}: {error}.", code="machine.systemd") from error

    def fileno(self) -> int:
        """Polls readable when systemd has said something."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection; safe to call twice."""
        self._socket.close()

    def call(
        self, member: str, signature: str = "", *arguments: Any, descriptors: tuple[int, ...] = ()
    ) -> tuple[Any, ...]:
        """Call a method of systemd's manager object and return its reply's values.

        Raises:
            BusError: it refused.
            MachineError: `machine.systemd`: it did not answer in time, or nonsense.
        """
        return self._ask(MANAGER_PATH, "org.freedesktop.systemd1.Manager", member, signature, arguments, descriptors)

    def property(self, path: str, kind: str, name: str) -> Any:
        """Read one property of an object: `kind` is `Manager`, `Unit` or `Service`. Raises as `call`."""
        arguments = ("org.freedesktop.systemd1." + kind, name)
        ((_, value),) = self._ask(path, "org.freedesktop.DBus.Properties", "Get", "ss", arguments, ())
        return value

    def job_result(self, job: str) -> str:
        """Wait for a job (by its object path) to be over: `done`, `failed`, `timeout`, ...

        Raises:
            MachineError: `machine.systemd`: it is not over after the patience of this connection.
        """
        deadline = time.monotonic() + _JOB_S
        self.read_signals()
        while job not in self._jobs:
            try:
                self._sleep(select.POLLIN, deadline)
            except TimeoutError as error:
                raise MachineError("systemd did not finish a unit's job.", code="machine.systemd") from error
            self.read_signals()
        return self._jobs.pop(job)

    def has_read_ahead(self) -> bool:
        """Tell whether something that arrived behind the last reply waits here: the socket would not wake anybody for it."""
        return bool(self._received)

    def read_signals(self) -> None:
        """Take in whatever has arrived, so that the connection sleeps again until something new happens.

        Raises:
            MachineError: `machine.systemd`: the connection is gone (systemd is being replaced by a newer one).
        """
        with contextlib.suppress(BlockingIOError):
            while True:
                self._receive()
        while (message := self._next_message()) is not None:
            self._note(*message)

    def _authenticate(self) -> None:
        user = str(os.geteuid()).encode().hex().encode()
        self._socket.sendall(b"\0AUTH EXTERNAL " + user + b"\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n")
        answer = bytearray()
        while answer.count(b"\r\n") < 2:
            chunk = self._socket.recv(1)  # not a byte of the first message may be taken along
            if not chunk or len(answer) > 1000:
                raise ConnectionError("authentication ended early")
            answer += chunk
        if not answer.startswith(b"OK ") or b"\r\nAGREE_UNIX_FD\r\n" not in answer:
            raise ConnectionError(f"authentication was refused: {bytes(answer[:80])!r}")

    def _ask(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        arguments: tuple[Any, ...],
        descriptors: tuple[int, ...],
        destination: str = _SYSTEMD,
    ) -> tuple[Any, ...]:
        self._serial += 1
        body = pack(signature, arguments)
        fields: list[tuple[int, tuple[str, Any]]] = [
            (_PATH, ("o", path)),
            (_INTERFACE, ("s", interface)),
            (_MEMBER, ("s", member)),
            (_DESTINATION, ("s", destination)),
        ]
        if signature:
            fields.append((_SIGNATURE, ("g", signature)))
        if descriptors:
            fields.append((_DESCRIPTORS, ("u", len(descriptors))))
        head = pack("yyyyuua(yv)", (ord("l"), _CALL, self._flags, 1, len(body), self._serial, fields))
        deadline = time.monotonic() + self._timeout_s
        try:
            self._send(head + b"\0" * (-len(head) % 8) + body, descriptors, deadline)
            return self._await_reply(member, deadline)
        except (OSError, WireError) as error:
            raise MachineError(f"systemd did not answer {member}: {error}.", code="machine.systemd") from error

    def ask(self, destination: str, path: str, interface: str, member: str, *typed: Any) -> tuple[Any, ...]:
        """Call a method of another service of a message bus: `typed` is its signature and its arguments. Raises as `call`."""
        signature, *arguments = typed or ("",)
        return self._ask(path, interface, member, signature, tuple(arguments), (), destination)

    def _send(self, message: bytes, descriptors: tuple[int, ...], deadline: float) -> None:
        rest = memoryview(message)
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
        while rest:
            try:
                rest = rest[self._socket.sendmsg([rest], passed if descriptors else []) :]
                passed = []
                descriptors = ()
            except BlockingIOError:
                self._sleep(select.POLLOUT, deadline)

    def _await_reply(self, member: str, deadline: float) -> tuple[Any, ...]:
        while True:
            message = self._next_message()
            if message is None:
                self._sleep(select.POLLIN, deadline)
                with contextlib.suppress(BlockingIOError):
                    self._receive()
                continue
            kind, fields, body = message
            if fields.get(_REPLY_SERIAL) != self._serial:
                self._note(*message)
                continue
            values = unpack(fields.get(_SIGNATURE, ""), body)
            if kind == _ERROR:
                raise BusError(fields.get(_ERROR_NAME, "?"), str(values[0]) if values else member)
            if kind == _REPLY:
                return values

    def _note(self, kind: int, fields: dict[int, Any], body: bytes) -> None:
        """Keep what a signal tells if it is the end of a job; that of others is nothing to us."""
        if kind == _SIGNAL and fields.get(_MEMBER) == "JobRemoved":
            _, job, _, result = unpack("uoss", body)
            self._jobs[job] = result
            if len(self._jobs) > _KEPT_JOBS:
                del self._jobs[next(iter(self._jobs))]

    def _sleep(self, event: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(self._socket, event)
        if not poller.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            raise TimeoutError("no answer in time")

    def _receive(self) -> None:
        chunk = self._socket.recv(1 << 16)
        if not chunk:
            raise MachineError("systemd closed the connection.", code="machine.systemd")
        self._received += chunk

    def _next_message(self) -> tuple[int, dict[int, Any], bytes] | None:
        """Take one complete message from what has been received: its kind, header fields and body."""
        if len(self._received) < 16:
            return None
        order, kind, _, _, body_length, _, fields_length = struct.unpack_from("<cBBBIII", self._received)
        head_length = 16 + fields_length + -fields_length % 8
        if order != b"l" or head_length + body_length > _MAX_MESSAGE:
            raise WireError("a message that is too large, or of the other byte order")
        if len(self._received) < head_length + body_length:
            return None
        *_, pairs = unpack("yyyyuua(yv)", bytes(self._received[: 16 + fields_length]))
        body = bytes(self._received[head_length : head_length + body_length])
        del self._received[: head_length + body_length]
        return kind, {code: value for code, (_, value) in pairs}, body
