"""`pcmsvc run`: the resident process. It sleeps, listens on the local socket, and starts short-lived workers.

Serves step 6 (starts `worker check` when one is due) and step 9 (starts `worker answer` for each local connection). Before it:
the boot, or an administrator. It reads no document, opens no database, speaks to no network and runs no program: so there is
nothing in it that input could break, and little memory. It is up before the network is (KB Q178662) and never waits for it.

Sleeping: at most `NAP_S` at a time against a clock that counts suspended time, so a resume from suspend or a jump of the wall
clock is noticed within a minute; checks are due by that clock and not by the wall's.

Stopping (SIGTERM, SIGINT): the socket closes, the worker is told to begin nothing new, and is given `STOP_S` to end. A worker
that is running a program is left alone: it owns that program's end and its result. A unit file therefore says
`KillMode=process`; if the computer itself goes down, the journal and `recovery` take care. The next supervisor's check waits
until the old worker has let go of the work lock. SIGHUP: check now.

Exit codes: 0 stopped, 1 failed, 4 the runtime folder cannot be used, 6 another supervisor is running.
Standard library only, no asyncio, no sqlite3, no json: this process stays for ever (`bench/` and a test measure it).
"""

import os
import select
import signal
import socket
import sys

from pcm.service.admission import Admission
from pcm.service.machine import logons, resident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NAP_S = 60.0
STOP_S = 10.0
CHECK_NOW = (
    75  # exit code of an `answer` worker: its asker wants a check (sysexits: temporary failure, no result of ours)
)
ALREADY_RUNNING = 6
MOST_S = 7 * 86_400.0
FIRST_PAUSE_S = 15.0
LONGEST_PAUSE_S = 3600.0
LOGON_S = 5.0  # a session needs a moment until it is complete
LOGON_PAUSE_S = 30.0
_MAX_WORD = 512
_ACCEPTS_AT_ONCE = 64
_BUSY = (
    b'{"answer":"error","code":"local.busy","message":"The service is answering too many requests just now; '
    b'try again in a moment."}\n'
)


class Supervisor:
    """One resident service.

    Args:
        runtime: Folder of socket and locks; exists.
        arguments: What leads a worker to the same places: `--home DIR` or nothing.
    """

    def __init__(self, runtime: str, arguments: tuple[str, ...]) -> None:
        self._runtime = runtime
        self._arguments = arguments
        self._poll = select.poll()
        self._ready: dict[int, Callable[[], None]] = {}
        self._admission = Admission()
        self._check: resident.Child | None = None
        self._check_output = -1
        self._word = b""
        self._due = resident.boot_seconds()
        self._again = False
        self._logons = logons.Logons()
        self._awaited = self._came = False
        self._begun = 0.0
        self._failures = 0
        self._answers = 0
        self._stopping = False
        self._listener: socket.socket | None = None

    def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        if resident.try_lock(f"{self._runtime}/supervisor.lock") is None:
            _say("another PCM service is already running for these folders.")
            return ALREADY_RUNNING
        self._listen()
        self._hear_signals()
        notify(b"READY=1\nSTATUS=Waiting for the next check")
        while not self._stopping:
            now = resident.boot_seconds()
            self._notice_logons(now)
            if self._check is None and now >= self._due:
                self._start_check()
            self._wait(NAP_S if self._check is not None else min(NAP_S, self._due - now))
        self._stop()
        return 0

    def _wait(self, seconds: float) -> None:
        for descriptor, _ in self._poll.poll(max(0.0, seconds) * 1000 + 1):
            serve = self._ready.get(descriptor)  # an earlier one in this round may have taken it away
            if serve is not None:
                serve()

    def _watch(self, descriptor: int, serve: "Callable[[], None]") -> None:
        self._ready[descriptor] = serve
        self._poll.register(descriptor, select.POLLIN)

    def _forget(self, descriptor: int) -> None:
        if self._ready.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    # ---- the local socket

    def _listen(self) -> None:
        # by a descriptor of the folder: a socket's path may have 107 bytes only
        folder = os.open(self._runtime, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        path = f"/proc/self/fd/{folder}/pcmsvc.sock"
        try:
            if os.path.lexists(path):
                os.unlink(path)  # noqa: PTH108 - pathlib costs a megabyte
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            listener.bind(path)
            os.chmod(path, 0o666)  # noqa: PTH101, S103 - same; all may ask, the kernel says who it is
        finally:
            os.close(folder)
        listener.listen(64)
        self._listener = listener
        self._watch(listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            if self._listener is None:
                return
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return  # nobody waits any more, or no descriptor is free: those who wait are served later
            with connection:
                self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        try:
            user_id = resident.peer_user(connection)
        except OSError:
            return
        if not self._admission.enter(user_id, resident.boot_seconds()):
            _refuse(connection)
            return
        try:
            child = resident.start_own(
                "pcm.service.worker", ("answer", *self._arguments), connection.fileno(), sys.stderr.fileno()
            )
        except OSError as error:
            _say(f"a local request could not be answered: {error.strerror}.")
            self._admission.leave(user_id)
            _refuse(connection)
            return
        self._answers += 1
        self._watch(child.descriptor, lambda: self._answered(child, user_id))

    def _answered(self, child: resident.Child, user_id: int) -> None:
        self._forget(child.descriptor)
        self._admission.leave(user_id)
        self._answers -= 1
        if child.reap() == CHECK_NOW:
            self._check_soon()

    # ---- checks

    def _check_soon(self) -> None:
        self._due = resident.boot_seconds()
        self._again = self._check is not None

    def _notice_logons(self, now: float) -> None:
        """Check soon if somebody has come or gone, and the last check said that something waits for that."""
        self._came |= self._logons.changed()
        if self._came and self._awaited and self._check is None:
            self._due = min(self._due, max(now + LOGON_S, self._begun + LOGON_PAUSE_S))
            self._came = False

    def _start_check(self) -> None:
        self._begun, self._came = resident.boot_seconds(), False
        reading, writing = os.pipe()
        try:
            nothing = os.open(os.devnull, os.O_RDONLY)
            try:
                child = resident.start_own("pcm.service.worker", ("check", *self._arguments), nothing, writing)
            finally:
                os.close(nothing)
        except OSError as error:
            _say(f"a check could not be started: {error.strerror}.")
            os.close(reading)
            self._postpone()
            return
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        self._check, self._check_output, self._word = child, reading, b""
        self._watch(reading, self._hear)
        self._watch(child.descriptor, self._checked)

    def _hear(self) -> None:
        """Take in what the worker says; its last line is when the next check is due."""
        try:
            data = os.read(self._check_output, _MAX_WORD)
        except BlockingIOError:
            return
        if data:
            self._word = (self._word + data)[-_MAX_WORD:]
        else:
            self._forget(self._check_output)

    def _checked(self) -> None:
        child = self._check
        if child is None:
            return
        self._forget(child.descriptor)
        code = child.reap()
        self._hear()
        self._forget(self._check_output)
        os.close(self._check_output)
        self._check, self._check_output = None, -1
        pause = read_pause(self._word)
        self._awaited = reads_awaited(self._word)
        if self._again:
            self._again, self._due = False, resident.boot_seconds()
        elif pause is not None and code >= 0:
            self._failures = 0
            self._due = resident.boot_seconds() + pause
        else:
            if code == ALREADY_RUNNING:
                self._failures = (
                    0  # an administrator's `pcmsvc once`, or a worker that a stopped supervisor left behind
                )
            else:
                _say(f"a check ended with code {code} and did not say when the next one is due.")
            self._postpone()

    def _postpone(self) -> None:
        """Back off, with jitter, after a worker that could not do its work."""
        pause = min(FIRST_PAUSE_S * 2.0**self._failures, LONGEST_PAUSE_S)
        self._failures = min(self._failures + 1, 16)
        self._due = resident.boot_seconds() + pause * (0.75 + os.urandom(1)[0] / 512)

    # ---- signals and the end

    def _hear_signals(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)

        def heard() -> None:
            for number in os.read(reading, 64):
                if number == signal.SIGHUP:
                    self._check_soon()
                elif number != logons.SIGNAL:  # that one has woken us, which is all that it is for
                    self._stopping = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, logons.SIGNAL):
            signal.signal(number, lambda *_: None)  # the wake-up descriptor tells which came
        signal.set_wakeup_fd(writing)
        self._watch(reading, heard)

    def _stop(self) -> None:
        notify(b"STOPPING=1")
        if self._listener is not None:
            self._forget(self._listener.fileno())
            self._listener.close()
            self._listener = None
            path = f"{self._runtime}/pcmsvc.sock"
            if os.path.lexists(path):
                os.unlink(path)  # noqa: PTH108 - pathlib costs a megabyte
        if self._check is not None:
            self._check.signal(signal.SIGTERM)
        end = resident.boot_seconds() + STOP_S
        while (self._check is not None or self._answers) and (left := end - resident.boot_seconds()) > 0:
            self._wait(left)


def read_pause(word: bytes) -> float | None:
    """Seconds until the next check, from a worker's last line `{"next_check_s": 1800}`; None if it says nothing of the kind."""
    before, key, rest = _last_line(word).partition(b'"next_check_s":')
    number = rest.partition(b",")[0].strip(b" }")
    if before != b"{" or not key or not number.isdigit() or len(number) > 9:
        return None
    return min(float(number), MOST_S)


def reads_awaited(word: bytes) -> bool:
    """Whether a worker's last line says that something waits for somebody to log on or off: `..., "logon": true}`."""
    return _last_line(word).partition(b'"logon":')[2].strip(b" }") == b"true"


def _last_line(word: bytes) -> bytes:
    return word.rstrip(b"\n").rpartition(b"\n")[2]


def notify(message: bytes) -> None:
    """Tell the init system (sd_notify(3)), if it asked to be told. Not being heard is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message, target)
    except OSError:
        return


def _refuse(connection: socket.socket) -> None:
    try:
        connection.setblocking(False)
        connection.send(_BUSY)
    except OSError:
        return


def _say(text: str) -> None:
    sys.stderr.write(f"pcmsvc: {text}\n")
    sys.stderr.flush()


def main() -> int:
    """Process entry: `RUNTIME_FOLDER [--home DIR]`, made by `main` of the service."""
    runtime, *arguments = sys.argv[1:]
    os.chdir("/")
    try:
        return Supervisor(runtime, tuple(arguments)).run()
    except PermissionError as error:
        _say(f"the runtime folder {runtime} cannot be used: {error.strerror}; start the service as administrator.")
        return 4
    except OSError as error:
        _say(f"the service cannot work in {runtime}: {error.strerror}.")
        return 1
