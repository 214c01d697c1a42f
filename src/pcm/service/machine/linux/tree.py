"""Step 10 where no systemd runs: own a program's whole process tree by being the parent of every orphan in it.

Before: `service.runner` has journalled the reference. After: it journals `Ended`. Done means the tree is gone (KB Q128612,
Q156271, Q158734, Q150089, Q153819, Q274592, Q214898): this process is a *child subreaper*, so whatever a program starts and
abandons (double fork, setsid, daemon) becomes a child of this process, and the run lasts until there is none. That includes a
daemon an installer leaves running on purpose: under systemd such a daemon belongs to its own unit, here it is part of the run.

One program at a time per process: an orphan tells nobody whose it was. `linux.run` serves the run, `linux.survivors` looks for
the trees of a worker that died.
"""

import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from pcm.model.errors import MachineError, Retry
from pcm.service.machine.commands import check_working_directory, compose_environment
from pcm.service.machine.interface import Account, Ended, Launch, RunningProgram, RunReference, TreeLimits
from pcm.service.machine.linux.accounts import account_named, groups_of
from pcm.service.machine.linux.children import FAMILY, is_own, present_children
from pcm.service.machine.linux.clock import boot_id
from pcm.service.machine.linux.proctable import Process, own_children, read_process, signal_process, with_descendants
from pcm.service.machine.linux.reference import make_reference
from pcm.service.machine.linux.run import EndedRun, TreeRun
from pcm.service.machine.linux.survivors import FoundTree
from pcm.service.machine.linux.syscalls import become_subreaper
from pcm.service.machine.posix.kept_result import keep_result, kept_result, remove_result
from pcm.service.machine.posix.output import ProgramOutput, remove_pipe
from pcm.service.machine.posix.temporary import holds_little, make_temporary, remove_temporary


class OwnTree:
    """A `Tree` of our own children: everything but what was there before the program, and our own programs."""

    look_every_s = 1.0  # orphans that come and go are reaped this often; an end that matters wakes at once

    def __init__(self, program: subprocess.Popen[bytes], before: frozenset[tuple[int, int]]) -> None:
        self._program = program
        self._before = before

    def look(self) -> list[Process]:
        """Living direct children of the run. Everything deeper has one of them above it."""
        with FAMILY:
            ended: dict[int, Process] = {}
            while True:
                children = self._children(ended)
                living = [process for process in children if process.alive]
                # nobody living is believed at the second look only: a child of one that ended between the listing and its
                # inspection has become ours in that moment, and stands in the next list
                if living or len(children) == len(ended):
                    break
                ended = {process.id: process for process in children}
            if not living:
                self._reap(children)
            return living

    def strike(self, number: int) -> int:
        """Signal every process of the run.

        Killing takes whole process groups first: that is atomic, no member can fork away from it. An unreaped child's number
        belongs to nobody else, so neither does its group's.
        """
        with FAMILY:
            children = self._children()
            if number == signal.SIGKILL:
                for process in children:
                    with contextlib.suppress(OSError):
                        if os.getpgid(process.id) == process.id:
                            os.killpg(process.id, number)
            everyone = with_descendants([process.id for process in children])
        for process in everyone:
            signal_process(process, number)
        return len(everyone)

    def result(self) -> tuple[int | None, int | None]:
        """Reap the first process, kept until now so that its number stayed its own."""
        # returns None for one that even SIGKILL could not end
        code = self._program.poll()
        if code is None:
            self._program.returncode = -signal.SIGKILL  # nobody will wait for it any more
            return None, None
        return (code, None) if code >= 0 else (None, -code)

    def _reap(self, ended: list[Process]) -> None:
        for process in ended:
            if process.id != self._program.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.id, os.WNOHANG)

    def _children(self, ended: Mapping[int, Process] = MappingProxyType({})) -> list[Process]:
        """The run's own among this process's children. `ended`: found dead before and not reaped since, so they still are."""
        found = [ended.get(process_id) or read_process(process_id) for process_id in own_children()]
        return [
            process
            for process in found
            if process is not None
            and (process.id, process.started_ticks) not in self._before
            and not is_own(process.id, process.started_ticks)
        ]


class TreeProcesses:
    """The `tree` back end of `Processes`."""

    name = "tree"

    def __init__(self) -> None:
        self._current: RunReference | None = None

    def reference_of(self, launch: Launch) -> RunReference:
        """See `Processes.reference_of`."""
        return make_reference(launch, self.name)

    def start(self, launch: Launch, reference: RunReference | None = None) -> RunningProgram:
        """See `Processes.start`. `machine.busy`: this process already runs a program."""
        reference = reference or self.reference_of(launch)
        check_working_directory(launch.working_directory)
        _check_limits(launch)
        if self._current is not None:
            raise MachineError(f"Run {self._current.run_id} is still going on in this process.", code="machine.busy")
        account = account_named(launch.run_as)
        if account.user_id != os.geteuid() != 0:
            raise MachineError(f"Only root can run a program as {launch.run_as}.", code="machine.account")
        folder = launch.output_path.parent
        output = ProgramOutput.create(launch.output_path, launch.output_limit_bytes)
        with contextlib.ExitStack() as undo:
            undo.callback(launch.output_path.unlink)
            undo.callback(self.forget, reference)
            undo.callback(output.close)
            if account.user_id != os.geteuid():
                output.give_to(account.user_id)
            temporary = make_temporary(folder, launch.run_id, account.user_id, account.group_id)
            environment = compose_environment(launch, account, temporary)
            become_subreaper()
            before = present_children()
            program = _popen(launch, account, environment, output.program_end)
            undo.pop_all()
        output.close_program_end()
        self._current = reference
        return TreeRun(reference, OwnTree(program, before), output, self._keep(folder), first=program.pid)

    def find_again(self, reference: RunReference) -> RunningProgram | None:
        """See `Processes.find_again`. The exit code of a found tree is lost with the worker that was its parent."""
        path = Path(reference.output_path)
        ended = kept_result(path.parent)
        if ended is not None:
            return EndedRun(reference, ended)
        if reference.boot_id != boot_id():
            return None
        tree = FoundTree(reference)
        if not tree.look():
            return None
        output = ProgramOutput.go_on(path, reference.output_limit_bytes)
        return TreeRun(reference, tree, output, self._keep(path.parent))

    def forgets_soon(self, reference: RunReference) -> bool:
        """See `Processes.forgets_soon`."""
        return holds_little(Path(reference.output_path).parent, reference.run_id, reference.user_id)

    def forget(self, reference: RunReference) -> None:
        """See `Processes.forget`. The output stays; its pipe, the kept result and the temporary files go."""
        path = Path(reference.output_path)
        folder = path.parent
        remove_pipe(path)
        remove_result(folder)
        remove_temporary(folder, reference.run_id, reference.user_id)

    def _keep(self, folder: Path) -> Callable[[Ended], None]:
        def keep(ended: Ended) -> None:
            self._current = None
            keep_result(folder, ended)

        return keep


def _check_limits(launch: Launch) -> None:
    """Refuse limits: the kernel keeps those of a process (setrlimit(2)) per process, or per user, but for no tree."""
    if launch.limits != TreeLimits():
        raise MachineError(
            "The program is signed to run within limits, and without systemd nobody here keeps them for a whole process tree.",
            code="machine.limit",
            retry=Retry.NEVER,
        )


def _popen(launch: Launch, account: Account, environment: dict[str, str], output: int) -> subprocess.Popen[bytes]:
    other = account.user_id != os.geteuid()
    _stop_ignoring()
    try:
        return subprocess.Popen(
            launch.argv,
            cwd=launch.working_directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            close_fds=True,
            start_new_session=True,
            umask=0o022 if other else 0o077,  # as a user's own programs have it
            user=account.user_id if other else None,
            group=account.group_id if other else None,
            extra_groups=groups_of(account) if other else None,
        )
    except FileNotFoundError:
        raise MachineError(
            f"The program {launch.argv[0]}, or the interpreter it names, is not there.",
            code="machine.program_not_found",
            retry=Retry.NEVER,
        ) from None
    except OSError as error:
        code = "machine.not_executable" if error.errno in {errno.EACCES, errno.ENOEXEC} else "machine.cannot_start"
        raise MachineError(f"The program {launch.argv[0]} cannot be started: {error.strerror}.", code=code) from error


def _stop_ignoring() -> None:
    """Handle what a shell made us ignore (`nohup`, `&`): a program inherits what is ignored, but not what is handled."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
