"""Step 10 where systemd is PID 1: each run is a transient service, its control group is the tree.

Before: `service.runner` has journalled the reference. After: it journals `Ended`, then forgets the run. Nothing a program does
gets it out of its control group, whoever lives or dies: `ExitType=cgroup` makes done mean that the group is empty (KB Q128612
and its kin), `RuntimeMaxSec` ends it even if no worker is there, and `RemainAfterExit` keeps the first process's exit code until
`forget`: a killed worker loses no result.

What a program sees is what `commands` documents: variables that systemd itself would add are taken out again, `$` in arguments
means nothing, SIGPIPE is not ignored. Temporary files: a private /tmp and /var/tmp.
"""

import contextlib
import os
import re
import select
import signal
import time
from pathlib import Path
from typing import Any

from pcm.model.errors import MachineError, PcmError, Retry
from pcm.service.machine.commands import check_working_directory, compose_environment, is_startable
from pcm.service.machine.interface import Ended, Launch, RunningProgram, RunReference
from pcm.service.machine.linux.accounts import account_named
from pcm.service.machine.linux.bus import MANAGER_PATH, Bus, BusError
from pcm.service.machine.linux.clock import boot_id
from pcm.service.machine.linux.reference import make_reference
from pcm.service.machine.linux.unit import controllers_of, object_path, unit_name, unit_settings
from pcm.service.machine.linux.wish import Wish
from pcm.service.machine.posix.output import ProgramOutput, has_pipe, remove_pipe

_STATE = Path("/run/systemd/system")
_CONTROLLERS = Path("/sys/fs/cgroup/cgroup.controllers")
_OVER = {"exited", "failed", "dead"}
_CLD_EXITED, _CLD_SIGNALLED = 1, {2, 3}  # waitid(2): exited; killed, dumped
# exit statuses with which systemd tells that it did not even get to the program (systemd.exec(5), "Process Exit Codes")
_AT_FOLDER, _AT_EXEC = 200, 203
_NOT_STARTED = {
    _AT_FOLDER: "machine.working_directory",
    _AT_EXEC: "machine.not_executable",
    # at the account's groups, at the account itself, at PAM: locked, expired, or kept away by a rule of this computer
    216: "machine.account",
    217: "machine.account",
    224: "machine.account",
}
_START_S = 30.0
_LOOK_EVERY_S = 5.0
_REEXEC_S = 60.0
_PATIENCE = 30  # times, a second apart
_OLDEST = 250  # the first version with ExitType=cgroup


def systemd_serves() -> bool:
    """Tell whether systemd is PID 1 here (sd_booted(3)), of a version that can own trees, and takes orders from us."""
    if os.geteuid() != 0 or not _STATE.is_dir():
        return False
    try:
        bus = Bus()
    except MachineError:
        return False
    try:
        version = re.match(r"\d+", bus.property(MANAGER_PATH, "Manager", "Version"))
        return version is not None and int(version.group()) >= _OLDEST
    finally:
        bus.close()


class SystemdProcesses:
    """The `systemd` back end of `Processes`."""

    name = "systemd"

    def reference_of(self, launch: Launch) -> RunReference:
        """See `Processes.reference_of`."""
        return make_reference(launch, self.name)

    def start(self, launch: Launch, reference: RunReference | None = None) -> RunningProgram:
        """See `Processes.start`."""
        reference = reference or self.reference_of(launch)
        check_working_directory(launch.working_directory)
        check_limits(launch)
        account = account_named(launch.run_as)
        environment = compose_environment(launch, account, temporary="/tmp")  # noqa: S108 - private to the unit
        output = ProgramOutput.create(launch.output_path, launch.output_limit_bytes)
        with contextlib.ExitStack() as undo:
            undo.callback(launch.output_path.unlink)
            undo.callback(remove_pipe, launch.output_path)
            undo.callback(output.close)
            if account.user_id != os.geteuid():
                output.give_to(account.user_id)
            bus = Bus()
            undo.callback(bus.close)
            inherited = bus.property(MANAGER_PATH, "Manager", "Environment")
            properties = unit_settings(launch, account, environment, inherited)
            bus.call("Subscribe")
            (job,) = bus.call(
                "StartTransientUnit",
                "ssa(sv)a(sa(sv))",
                unit_name(reference.run_id),
                "fail",
                properties,
                [],
                descriptors=(output.program_end,),
            )
            output.close_program_end()
            run = SystemdRun(reference, bus, output)
            undo.callback(self.forget, reference)
            run.check_started(job, launch)
            undo.pop_all()
        return run

    def find_again(self, reference: RunReference) -> RunningProgram | None:
        """See `Processes.find_again`: also finds runs that have ended, with their exit code."""
        if reference.boot_id != boot_id():
            return None
        bus = Bus()
        try:
            (path,) = bus.call("GetUnit", "s", unit_name(reference.run_id))
            output_path = Path(reference.output_path)
            # the output stays when a run is forgotten: without it, an installer has removed the folder
            forgotten = output_path.exists() and not has_pipe(output_path)
            if forgotten and bus.property(path, "Unit", "SubState") in _OVER:
                bus.close()
                return None  # and about to go
            bus.call("Subscribe")
            output = ProgramOutput.go_on(Path(reference.output_path), reference.output_limit_bytes)
        except PcmError as error:
            bus.close()
            if isinstance(error, BusError) and error.name.endswith(".NoSuchUnit"):
                return None
            raise
        return SystemdRun(reference, bus, output)

    def forgets_soon(self, _reference: RunReference) -> bool:
        """See `Processes.forgets_soon`: the system empties its private /tmp, and nobody waits for that."""
        return True

    def forget(self, reference: RunReference) -> None:
        """See `Processes.forget`: stops the unit, which by now holds nothing but the result, and its private /tmp."""
        remove_pipe(Path(reference.output_path))
        if reference.boot_id != boot_id():
            return
        bus = Bus()
        try:
            for member, signature, arguments in (
                ("StopUnit", "ss", (unit_name(reference.run_id), "replace")),
                ("ResetFailedUnit", "s", (unit_name(reference.run_id),)),
            ):
                with contextlib.suppress(BusError):  # it is not loaded (any more)
                    bus.call(member, signature, *arguments)
        finally:
            bus.close()


def check_limits(launch: Launch, controllers: Path = _CONTROLLERS) -> None:
    """Refuse a limit that systemd would note and the kernel not keep, as where control groups are of the old kind.

    Raises:
        MachineError: `machine.limit`.
    """
    needed = controllers_of(launch.limits)
    if not needed:
        return
    try:
        missing = needed - set(controllers.read_text().split())
    except OSError:
        missing = needed
    if missing:
        raise MachineError(
            f"The program is signed to run within limits, and this computer's control groups cannot keep them: {controllers} "
            f"does not name {', '.join(sorted(missing))}. It needs control groups of version 2.",
            code="machine.limit",
            retry=Retry.NEVER,
        )


class SystemdRun:
    """A `RunningProgram` that is a unit."""

    def __init__(self, reference: RunReference, bus: Bus, output: ProgramOutput) -> None:
        self._reference = reference
        self._bus = bus
        self._output = output
        self._path = object_path(unit_name(reference.run_id))
        self._kill_wish = Wish()
        self._timed_out = False
        self._survivors = 0
        self._ended: Ended | None = None

    @property
    def reference(self) -> RunReference:
        """Identity of the run, as journalled."""
        return self._reference

    def kill(self) -> None:
        """Ask for the end of the tree, from any thread; harmless once it has ended."""
        self._kill_wish.make()

    def check_started(self, job: str, launch: Launch) -> None:
        """Wait until the program executes, or is known not to. A program that merely fails has started.

        Raises:
            MachineError: `machine.not_executable`, `machine.program_not_found`, `machine.working_directory`,
                `machine.account`, `machine.cannot_start`.
        """
        started = self._bus.job_result(job) == "done"
        if started and (self._is_ours() or self._executes()):
            return
        status = self._get("Service", "ExecMainStatus")
        if self._get("Service", "ExecMainCode") in _CLD_SIGNALLED or self._is_the_programs(status, launch):
            return
        self._close()
        code = _NOT_STARTED.get(status, "machine.cannot_start")
        if code == "machine.not_executable" and not os.path.lexists(launch.argv[0]):
            code = "machine.program_not_found"
        raise MachineError(
            f"The program {launch.argv[0]} cannot be started as {launch.run_as} (systemd's exit status {status}).",
            code=code,
            retry=Retry.NEVER,
        )

    def _is_the_programs(self, status: int, launch: Launch) -> bool:
        """Tell whether an exit status that systemd also uses is the program's own.

        systemd looks at a child's end before it looks at whether that child got as far as the program, so a program that ends
        at once with such a status seems not to have started. Output proves that it did; so does that nothing stood in its way.
        """
        self._output.drain()
        if self._output.total_bytes:
            return True
        if status == _AT_EXEC:
            return is_startable(Path(launch.argv[0]))
        return status == _AT_FOLDER if self._is_ours() else status not in _NOT_STARTED

    def _is_ours(self) -> bool:
        return self._reference.user_id == os.geteuid()

    def _executes(self) -> bool:
        """Wait until the first process of a user's unit is more than systemd's own; False if that never was to be seen.

        The unit cannot tell, as others do (`Type=exec`): until version 254 a process of PAM's kept open what tells it.
        """
        give_up_s = time.monotonic() + _START_S
        process = self._get("Service", "ExecMainPID")
        systemd = Path("/proc/1/exe").readlink().parent
        with contextlib.suppress(OSError):  # it has ended
            while time.monotonic() < give_up_s:
                if Path(f"/proc/{process}/exe").readlink().parent != systemd:
                    return True
                time.sleep(0.002)
        while not self._get("Service", "ExecMainCode") and time.monotonic() < give_up_s:
            time.sleep(0.002)
        return False

    def wait(self) -> Ended:
        """Serve the run to its end.

        Raises:
            MachineError: `machine.going_down`: the computer shuts down and ended the program, however that then exited. Its
                end says nothing about its work, which may need the restart (KB Q158644): the run stays open, and the next
                boot settles it.
        """
        if self._ended is None:
            left = self._serve()
            code, how = self._get("Service", "ExecMainStatus"), self._get("Service", "ExecMainCode")
            result = self._get("Service", "Result")
            stopped = not self._timed_out and self._was_stopped()
            if stopped and self._is_going_down():
                self._close()
                raise MachineError(
                    "The computer is shutting down, which ended the program; the next start looks what came of it.",
                    code="machine.going_down",
                )
            ended_us = self._get("Unit", "StateChangeTimestampMonotonic")
            self._ended = Ended(
                exit_code=code if how == _CLD_EXITED else None,
                signal=code if how in _CLD_SIGNALLED else None,
                timed_out=self._timed_out or result == "timeout",
                output_tail=self._output.finish(),
                output_bytes=self._output.total_bytes,
                duration_s=(ended_us / 1e6 if ended_us else time.monotonic()) - self._reference.started_s,
                survivors_killed=self._survivors,
                survivors_left=left,
                ended_by="stopped" if stopped else "memory" if result == "oom-kill" else "",
            )
            self._close()
        return self._ended

    def _serve(self) -> int:
        """Return how many processes could not be ended."""
        limit_s = self._reference.started_s + self._reference.timeout_s
        kills, next_s = 0, limit_s
        while self._get("Unit", "SubState") not in _OVER:
            now = time.monotonic()
            if now >= next_s or (self._kill_wish.made and not kills):
                if kills > _PATIENCE:
                    return self._count()
                if not kills:
                    self._timed_out = now >= limit_s
                    self._survivors = self._count()
                self._strike(signal.SIGKILL if kills else signal.SIGTERM)
                next_s = now + (1.0 if kills else self._reference.grace_s)
                kills += 1
                continue
            self._sleep(min(next_s, now + _LOOK_EVERY_S) - now)
        return 0

    def _was_stopped(self) -> bool:
        """Tell whether systemd was told to end it: a unit that ended by itself stays as it is until `forget`.

        One that was stopped goes; asked about it, systemd answers as for a unit that it has never heard of.
        """
        return bool(self._get("Unit", "SubState") == "dead")

    def _is_going_down(self) -> bool:
        state = self._bus.property(MANAGER_PATH, "Manager", "SystemState")
        return bool(state == "stopping")

    def _strike(self, number: int) -> None:
        with contextlib.suppress(BusError):  # nobody is left to get it
            self._bus.call("KillUnit", "ssi", unit_name(self._reference.run_id), "all", number)

    def _count(self) -> int:
        try:
            (processes,) = self._bus.call("GetUnitProcesses", "s", unit_name(self._reference.run_id))
        except BusError:
            return 0
        return len(processes)

    def _get(self, kind: str, name: str) -> Any:
        """Read a property; a systemd that is being replaced (daemon-reexec) is asked again when it is back."""
        give_up_s = time.monotonic() + _REEXEC_S
        while True:
            try:
                return self._bus.property(self._path, kind, name)
            except BusError:
                raise
            except MachineError:
                if time.monotonic() >= give_up_s:
                    raise
                self._bus.close()
                time.sleep(0.1)
                with contextlib.suppress(MachineError):
                    self._bus = Bus()
                    self._bus.call("Subscribe")

    def _sleep(self, seconds: float) -> None:
        if self._bus.has_read_ahead():
            with contextlib.suppress(MachineError):
                self._bus.read_signals()
            return
        poller = select.poll()
        for descriptor in (self._bus.fileno(), self._output.reader, self._kill_wish.descriptor):
            poller.register(descriptor, select.POLLIN)
        for descriptor, _ in poller.poll(max(0, int(seconds * 1000) + 1)):
            if descriptor == self._output.reader:
                self._output.drain()
            elif descriptor == self._kill_wish.descriptor:
                self._kill_wish.noticed()
            else:
                with contextlib.suppress(MachineError):  # the next question notices, and connects again
                    self._bus.read_signals()

    def _close(self) -> None:
        self._bus.close()
        self._output.close()
        self._kill_wish.close()
