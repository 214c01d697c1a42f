"""One suite over every back end that owns process trees. Systemd's joins where systemd is PID 1 (see tests/e2e/test_machine_systemd)."""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pcm.service.machine.interface import Ended, Launch, Processes, RunningProgram, RunReference
from pcm.service.machine.linux.systemd import SystemdProcesses, systemd_serves
from pcm.service.machine.linux.tree import TreeProcesses

BACK_ENDS: list[type[TreeProcesses] | type[SystemdProcesses]] = [TreeProcesses]
if systemd_serves():
    BACK_ENDS.append(SystemdProcesses)


class Runs:
    """Starts programs in one test and forgets them at its end."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self.folder = folder
        self._started: list[tuple[RunReference, RunningProgram]] = []

    def launch(self, *argv: str, timeout_s: float = 20, **more: object) -> Launch:
        run_id = secrets.token_hex(16)
        values = {"working_directory": Path("/"), "output_path": self.folder / run_id / "output", "grace_s": 0.5} | more
        return Launch(run_id=run_id, argv=argv, timeout_s=timeout_s, **values)  # type: ignore[arg-type]

    def start(self, launch: Launch) -> RunningProgram:
        reference = self.processes.reference_of(launch)
        running = self.processes.start(launch, reference)
        self._started.append((reference, running))
        return running

    def run(self, *argv: str, timeout_s: float = 20, **more: object) -> Ended:
        return self.start(self.launch(*argv, timeout_s=timeout_s, **more)).wait()

    def shell(self, script: str, timeout_s: float = 20, **more: object) -> Ended:
        """A program that happens to be a shell script: it still arrives as one argument of an argv list."""
        return self.run("/bin/sh", "-c", script, timeout_s=timeout_s, **more)

    def close(self) -> None:
        for reference, running in self._started:
            running.kill()
            running.wait()
            self.processes.forget(reference)


@pytest.fixture(params=BACK_ENDS, ids=lambda back_end: back_end.name)
def processes(request: pytest.FixtureRequest) -> Processes:
    made: Processes = request.param()
    return made


@pytest.fixture
def runs(processes: Processes, tmp_path: Path) -> Iterator[Runs]:
    folder = tmp_path / "runs"
    folder.mkdir(mode=0o700)
    made = Runs(processes, folder)
    yield made
    made.close()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Wait, for a bounded time, until something becomes true in another process."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "it did not happen within ten seconds"
            time.sleep(0.005)

    return wait
