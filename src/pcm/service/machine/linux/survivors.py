"""Step 10 after a crash: the processes of a run whose worker was killed. Serves `Processes.find_again` of `linux.tree`.

The new worker is not their parent, so it knows them by what they carry, and believes only what an unprivileged user cannot
fake (a forged mark could otherwise hold up the queue, for as long as its owner likes):

    1. the run's output pipe, open among a process's descriptors: it lies in a folder of ours, nobody else can open it. Of a run
       as a user only that user's processes: the user can take the pipe from the program and hand it to any daemon that takes
       descriptors, which must not die for it;
    2. `PCM_RUN_ID` in the environment it was started with, from processes of root or of the run's own account;
    3. every descendant of those.

What escapes: a daemon that cleaned its environment, closed its output *and* left its parents, while no worker lived. Systemd's
back end has no such gap. How the first process ended is lost with its parent; the result says so.
"""

import os
import signal
from pathlib import Path

from pcm.service.machine.commands import RUN_ID_VARIABLE
from pcm.service.machine.interface import RunReference
from pcm.service.machine.linux.proctable import (
    FileIdentity,
    Process,
    all_processes,
    has_variable,
    identity_of,
    open_files,
    real_user,
    signal_process,
    with_descendants,
)
from pcm.service.machine.posix.output import open_pipe_name


class FoundTree:
    """A `Tree` of processes that are not our children, known by their marks."""

    look_every_s = 0.5

    def __init__(self, reference: RunReference) -> None:
        self._mark = f"{RUN_ID_VARIABLE}={reference.run_id}".encode()
        self._user_id = reference.user_id
        self._believed = {0, reference.user_id}
        self._pipe = _pipe_identity(Path(reference.output_path))
        self._seen: dict[int, int] = {}

    def look(self) -> list[Process]:
        """Living processes of the run; those once recognised stay recognised whatever they close.

        Nobody found is believed at the second time only: a child may have got a number that was already passed by.
        """
        return self._look_once() or self._look_once()

    def _look_once(self) -> list[Process]:
        me = os.getpid()
        table = all_processes()
        roots = [
            process.id
            for process in table.values()
            if process.id != me
            and process.alive
            and (self._seen.get(process.id) == process.started_ticks or self._belongs(process.id))
        ]
        found = [process for process in with_descendants(roots) if process.id != me]
        self._seen = {process.id: process.started_ticks for process in found}
        return found

    def strike(self, number: int) -> int:
        """Signal every process of the run, frozen first when it is to be killed, so that none forks away meanwhile."""
        found = self.look()
        if number == signal.SIGKILL:
            for process in found:
                signal_process(process, signal.SIGSTOP)
            found = self.look()
        for process in found:
            signal_process(process, number)
        return len(found)

    def result(self) -> tuple[int | None, int | None]:
        """Nobody saw how the first process ended."""
        return None, None

    def _belongs(self, process_id: int) -> bool:
        if has_variable(process_id, self._mark) and real_user(process_id) in self._believed:
            return True
        if self._pipe is None or self._pipe not in open_files(process_id):
            return False
        return self._user_id == os.geteuid() or real_user(process_id) == self._user_id


def _pipe_identity(output_path: Path) -> FileIdentity | None:
    try:
        descriptor = open_pipe_name(output_path)
    except OSError:
        return None
    try:
        return identity_of(descriptor)
    finally:
        os.close(descriptor)
