"""`pcmsvc run`: the resident process. It sleeps, listens on the local socket, and starts short-lived workers.

Serves step 6 (starts `worker check` when one is due) and step 9 (starts `worker answer` for each local connection). Before it:
the boot, or an administrator. It reads no document, opens no database, speaks to no network and runs no program: so there is
nothing in it that input could break, and little memory. It is up before the network is (KB Q178662) and never waits for it.

Sleeping: at most `NAP_S` at a time against a clock that counts suspended time, so a resume from suspend or a jump of the wall
clock is noticed within a minute; checks are due by that clock and not by the wall's. What happens around this computer can bring
a check forward, within the limits of `surroundings`: somebody logs on, an address comes or goes, the clock is set, the computer
wakes, and the logon server has news. For that a check leaves a connection at the server (`transport.glance`). It is held here and
neither read nor written, here or anywhere: that it stirs is all that it says, and what is new the next check finds out as always.

Stopping (SIGTERM, SIGINT): the socket closes, the worker is told to begin nothing new, and is given `STOP_S` to end. A worker
that is running a program is left alone: it owns that program's end and its result. A unit file therefore says
`KillMode=process`; if the computer itself goes down, the journal and `recovery` take care. The next supervisor's check waits
until the old worker has let go of the work lock. SIGHUP: check now.

Exit codes: 0 stopped, 1 failed, 4 the runtime folder cannot be used, 6 another supervisor is running.
Standard library only, no asyncio, no sqlite3, no json: this process stays for ever (`bench/` and a test measure it).
"""

import _socket
import os
import select
import sys

from pcm.service.admission import Admission
from pcm.service.check_process import CheckProcess, Said
from pcm.service.machine import addresses, logons, resident
from pcm.service.peer_door import PeerDoor
from pcm.service.surroundings import Alarms, Clocks, Occasions, Wishes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NAP_S = 60.0
STOP_S = 10.0
CHECK_NOW = (
    75  # exit code of an `answer` worker: its asker wants a check (sysexits: temporary failure, no result of ours)
)
ALREADY_RUNNING = 6
NEVER = float("inf")
FIRST_PAUSE_S = 15.0
LONGEST_PAUSE_S = 3600.0
LOGON_S = 5.0  # a session needs a moment until it is complete
LOGON_PAUSE_S = 30.0
LEAST_WAIT_S = 600.0  # a server that lets nobody wait for long is asked at the next poll
AGAIN_S, SPREAD_S = (
    3.0,
    10.0,
)  # after a resume or a change of addresses: until the network is there, and not all at once
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
        clock: This computer's clocks.
        nap_s: Longest sleep between two looks at them.
    """

    def __init__(
        self,
        runtime: str,
        arguments: tuple[str, ...],
        clock: resident.Clock = resident.Clock(),  # noqa: B008 - it holds nothing
        nap_s: float = NAP_S,
    ) -> None:
        self._runtime = runtime
        self._arguments = arguments
        self._clock = clock
        self._nap_s = nap_s
        self._poll = select.poll()
        self._ready: dict[int, Callable[[], None]] = {}
        self._admission = Admission()
        self._check: CheckProcess | None = None
        self._due, self._brought = clock.boot(), NEVER  # the second: what happened while a check was under way
        self._again = False
        self._logons = logons.Logons()
        self._awaited = self._came = False
        self._begun = 0.0
        self._parked, self._parked_until, self._parked_from = -1, 0.0, b""
        self._contact = False
        self._alarms, self._occasions, self._wishes = Alarms(), Occasions(), Wishes()
        self._clocks = Clocks(clock.boot(), clock.steady(), clock.wall())
        self._failures = 0
        self._answers = 0
        self._stopping = False
        self._listener: _socket.socket | None = None
        self._peers = PeerDoor(runtime, self._watch, self._forget, _say)

    def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        if resident.try_lock(f"{self._runtime}/supervisor.lock") is None:
            _say("another PCM service is already running for these folders.")
            return ALREADY_RUNNING
        self._listen()
        self._hear_signals()
        notify(b"READY=1\nSTATUS=Waiting for the next check")
        self._hear_network()
        self._peers.look(checking=False)
        while not self._stopping:
            now = self._clock.boot()
            self._notice_logons(now)
            self._notice_clocks(now)
            if self._check is None and now >= min(self._due, self._parked_until or self._due):
                self._start_check()
            next_s = min(self._due, self._parked_until or self._due) - now
            self._wait(self._nap_s if self._check is not None else min(self._nap_s, next_s))
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
            listener = _socket.socket(
                _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
            )
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
                descriptor, _address = resident.accept(self._listener)
            except OSError:
                return  # nobody waits any more, or no descriptor is free: those who wait are served later
            connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
            try:
                self._admit(connection)
            finally:
                connection.close()

    def _admit(self, connection: _socket.socket) -> None:
        try:
            user_id = resident.peer_user(connection)
        except OSError:
            return
        if not self._admission.enter(user_id, self._clock.boot()):
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
        if child.reap() != CHECK_NOW:
            return
        if user_id == 0:
            self._check_soon()
        else:  # asking and taking back all day must not keep this computer, or its servers, busy
            self._brought = min(self._brought, self._wishes.take(self._clock.boot()))
            self._due = min(self._due, self._brought)

    # ---- checks

    def _check_soon(self) -> None:
        self._due = self._clock.boot()
        self._again = self._check is not None

    def _notice_logons(self, now: float) -> None:
        """Check soon if somebody has come or gone, and the last check said that something waits for that."""
        self._came |= self._logons.changed()
        if self._came and self._awaited and self._check is None:
            self._due = min(self._due, max(now + LOGON_S, self._begun + LOGON_PAUSE_S))
            self._came = False

    def _notice_clocks(self, now: float) -> None:
        """Check soon if the clock was set: times of orders are by it. Or if this computer slept: its connection is lost."""
        slept = self._clocks.slept(now, self._clock.steady())
        if self._clocks.jumped(now, self._clock.wall()) or slept:
            self._leave_server()
            self._bring_forward(_spread() if slept else 0.0)

    def _bring_forward(self, delay: float) -> None:
        self._brought = min(self._brought, self._occasions.take(self._clock.boot(), delay))
        self._due = min(self._due, self._brought)

    def _start_check(self) -> None:
        self._begun, self._came, self._brought = self._clock.boot(), False, NEVER
        self._leave_server()  # the check leaves another one
        try:
            check = CheckProcess(self._arguments)
        except OSError as error:
            _say(f"a check could not be started: {error.strerror}.")
            self._postpone()
            return
        self._check = check
        self._watch(check.output, self._hear)
        self._watch(check.ended, self._checked)

    def _hear(self) -> None:
        if self._check is not None and not self._check.hear():
            self._forget(self._check.output)
        self._peers.look(checking=True)

    def _checked(self) -> None:
        check = self._check
        if check is None:
            return
        self._forget(check.ended)
        self._forget(check.output)
        self._check = None
        said = check.finish()
        self._peers.look(checking=False)
        self._awaited, self._contact = said.logon, said.contact
        self._alarms.judge(news=said.news)
        self._wait_at_server(said)
        if self._again:
            self._again, self._due = False, self._clock.boot()
        elif said.pause is not None and said.code >= 0:
            self._failures = 0
            self._due = min(self._clock.boot() + said.pause, self._brought)
        else:
            if said.code == ALREADY_RUNNING:
                self._failures = (
                    0  # an administrator's `pcmsvc once`, or a worker that a stopped supervisor left behind
                )
            else:
                _say(f"a check ended with code {said.code} and did not say when the next one is due.")
            self._postpone()

    # ---- the server and the network, neither of which is spoken to

    def _wait_at_server(self, said: Said) -> None:
        """Wait for the connection to stir that a check has left, and replace it before its time is over."""
        if said.parked < 0:
            return
        if said.wake_s < LEAST_WAIT_S or self._stopping:
            os.close(said.parked)
            return
        self._parked, self._parked_until = said.parked, self._clock.boot() + said.wake_s * 0.9
        self._parked_from = resident.local_address(said.parked)
        self._watch(said.parked, self._stirred)

    def _stirred(self) -> None:
        """The server has news, says so without having any, or the connection broke: the next check finds out."""
        self._leave_server()
        self._due = min(self._due, self._alarms.follow(self._clock.boot()))

    def _leave_server(self) -> None:
        if self._parked >= 0:
            self._forget(self._parked)
            os.close(self._parked)
        self._parked, self._parked_until, self._parked_from = -1, 0.0, b""

    def _hear_network(self) -> None:
        try:
            known = addresses.Addresses()
        except OSError as error:
            _say(f"changes of network addresses will not be noticed: {error.strerror}.")
            return

        def heard() -> None:
            changes = known.changes()
            cut_off = self._parked_from in changes.lost
            if cut_off:
                self._leave_server()
            if cut_off or (changes.came and not self._contact):  # else it is none of ours: a container's, a tunnel's
                self._bring_forward(_spread())

        self._watch(known.fileno(), heard)

    def _postpone(self) -> None:
        """Back off, with jitter, after a worker that could not do its work."""
        pause = min(FIRST_PAUSE_S * 2.0**self._failures, LONGEST_PAUSE_S)
        self._failures = min(self._failures + 1, 16)
        self._due = self._clock.boot() + pause * (0.75 + os.urandom(1)[0] / 512)

    # ---- signals and the end

    def _hear_signals(self) -> None:
        reading = resident.hear_signals(
            (
                resident.SIGTERM,
                resident.SIGINT,
                resident.SIGHUP,
                logons.SIGNAL,
            )  # the last has woken us, and that is all
        )

        def heard() -> None:
            for number in os.read(reading, 64):
                if number == resident.SIGHUP:
                    self._check_soon()
                elif number in (resident.SIGTERM, resident.SIGINT):
                    self._stopping = True

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
        self._leave_server()
        self._peers.stop()
        if self._check is not None:
            self._check.signal(resident.SIGTERM)
        end = self._clock.boot() + STOP_S
        while (self._check is not None or self._answers) and (left := end - self._clock.boot()) > 0:
            self._wait(left)


def _spread() -> float:
    """Seconds, different for each computer: all of a building get their network back at the same moment."""
    return AGAIN_S + os.urandom(1)[0] / 255 * SPREAD_S


def notify(message: bytes) -> None:
    """Tell the init system (sd_notify(3)), if it asked to be told. Not being heard is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        sender = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            sender.sendto(message, target)
        finally:
            sender.close()
    except OSError:
        return


def _refuse(connection: _socket.socket) -> None:
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
