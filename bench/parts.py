"""Where the time of one trivial program goes that the runner takes and a bare `posix_spawn` does not: by the steps of a run.

Each step is measured where `service.course` does it: processor time of this process, and what it waited for, which is the disk
and the program itself. What lies between the steps is the plan, the journal's reading and the list of steps itself.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from bench.drain import drain_client, make_client
from bench.measure import Report, Sample, queued_ns
from bench.place import temporary_folder
from pcm.service import runner
from pcm.service.course import Step
from pcm.service.journal import Change
from pcm.service.work import Context, Work

SIZE = 100
REPEATS = 5


class Spent:
    """Processor time and waiting of one part, summed up in milliseconds."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.waited = 0.0

    def measure(self, action: Callable[[], object]) -> float:
        """Do something, and add what it cost; the processor time of this once."""
        cpu, wall, queued = time.process_time_ns(), time.perf_counter_ns(), queued_ns()
        action()
        took = (time.process_time_ns() - cpu) / 1e6
        self.cpu += took
        self.waited += (time.perf_counter_ns() - wall - (queued_ns() - queued)) / 1e6 - took
        return took


def measure(report: Report) -> None:
    """Add processor time and waiting of each step, and of a bare `posix_spawn`."""
    cpu: dict[str, Sample] = {}
    waited: dict[str, Sample] = {}
    with temporary_folder() as folder:
        for number in range(REPEATS):
            for name, spent in (*_by_step(folder / str(number)).items(), ("posix_spawn", _bare())):
                cpu.setdefault(name, Sample()).values.append(spent.cpu / SIZE)
                waited.setdefault(name, Sample()).values.append(spent.waited / SIZE)
    for name, spent_cpu in cpu.items():
        beside = ("waited for disk and program", waited[name].median)
        report.add(f"one program, {name}: CPU of the service", spent_cpu.median, "ms", peer=beside)


def _by_step(home: Path) -> dict[str, Spent]:
    make_client(home, SIZE)
    parts = {step.name: Spent() for step in runner.STEPS}
    whole = Spent()
    untimed = runner.STEPS
    runner.STEPS = tuple(step._replace(do=_timed(step, parts[step.name])) for step in untimed)
    try:
        drain_client(home, SIZE, whole.measure)
    finally:
        runner.STEPS = untimed
    parts = {name: spent for name, spent in parts.items() if spent.cpu}
    rest = parts["between the steps"] = Spent()
    rest.cpu = whole.cpu - sum(spent.cpu for spent in parts.values())
    rest.waited = whole.waited - sum(spent.waited for spent in parts.values())
    parts["all of it"] = whole
    return parts


def _timed(step: Step, spent: Spent) -> Callable[[Work, Context], Change | None]:
    def do(work: Work, context: Context) -> Change | None:
        found: list[Change | None] = []
        spent.measure(lambda: found.append(step.do(work, context)))
        return found[0]

    return do


def _bare() -> Spent:
    spent = Spent()

    def run_all() -> None:
        for _ in range(SIZE):
            os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)

    spent.measure(run_all)
    return spent
