"""What all measurements share: repeats and their medians, processes and what they cost, figures, the table, the JSON file.

Machines are noisy: whatever is compared is measured in turns within one run (`in_turns`), and both the median and the
least of the repeats are kept. A figure stands beside a peer or a limit of this very machine, never alone.
"""

import json
import os
import resource
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

OUT = Path(__file__).resolve().parent / "out"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figure:
    """One line of the table. `beside`: the peer and its value; `ratio`: value over peer; `holds` None: no aim was set."""

    name: str
    value: float
    unit: str
    beside: str = ""
    ratio: float | None = None
    aim: str = ""
    holds: bool | None = None


@dataclass
class Sample:
    """Repeats of one measurement."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The one in the middle."""
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        """The one that was disturbed least."""
        return min(self.values)


@dataclass(frozen=True)
class Spent:
    """What one process and all that it waited for cost."""

    wall_ms: float
    cpu_ms: float
    code: int


@dataclass
class Report:
    """The figures of one part; grows line by line."""

    part: str
    figures: list[Figure] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        peer: tuple[str, float] | None = None,
        at_most: float | None = None,
        at_least: float | None = None,
        of_ratio: bool = False,
    ) -> None:
        """Add a figure.

        Args:
            peer: What it is compared with, and that one's value in the same unit.
            at_most: Aim. at_least: the same the other way round.
            of_ratio: The aim is for the ratio to the peer.
        """
        ratio = value / peer[1] if peer is not None and peer[1] else None
        beside = "" if peer is None else f"{peer[0]}: {number(peer[1])}"
        judged = ratio if of_ratio and ratio is not None else value
        holds, aim = judge(judged, at_most, at_least)
        self.figures.append(
            Figure(name, value, unit, beside, ratio, f"ratio {aim}" if aim and of_ratio else aim, holds)
        )

    def finish(self) -> int:
        """Print the table and the verdicts, and write `bench/out/<part>.json`. Returns how many aims do not hold."""
        print(table(self.figures))
        print()
        for figure in self.figures:
            if figure.holds is not None:
                print(verdict(figure))
        OUT.mkdir(exist_ok=True)
        (OUT / f"{self.part}.json").write_text(json.dumps([asdict(each) for each in self.figures], indent=1) + "\n")
        return sum(figure.holds is False for figure in self.figures)


def judge(value: float, at_most: float | None, at_least: float | None) -> tuple[bool | None, str]:
    """Whether a value reaches its aim, and the aim in words; None and nothing if there is no aim."""
    if at_most is not None:
        return value <= at_most, f"≤ {number(at_most)}"
    if at_least is not None:
        return value >= at_least, f"≥ {number(at_least)}"
    return None, ""


def number(value: float) -> str:
    """A number with as many digits as mean something: three, and thousands whole."""
    if value == 0 or abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) >= 1 else 3}f}"


def table(figures: Sequence[Figure]) -> str:
    """The figures as aligned plain text."""
    rows = [("what", "value", "", "beside", "ratio", "aim", "")]
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        mark = {None: "", True: "holds", False: "DOES NOT HOLD"}[figure.holds]
        rows.append((figure.name, number(figure.value), figure.unit, figure.beside, ratio, figure.aim, mark))
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if at in (1, 4) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def verdict(figure: Figure) -> str:
    """One aim in one line."""
    said = "holds" if figure.holds else "does not hold"
    value = (
        f"ratio {figure.ratio:.2f}"
        if figure.aim.startswith("ratio") and figure.ratio is not None
        else number(figure.value)
    )
    unit = "" if figure.aim.startswith("ratio") else f" {figure.unit}"
    return f"{said}: {figure.name}: {value}{unit} (aim {figure.aim})"


def in_turns(actions: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Sample]:
    """Measure several things in turns, so that whatever disturbs the machine disturbs all of them alike.

    Args:
        actions: Each returns its own measurement.
    """
    samples = {name: Sample() for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            samples[name].values.append(action())
    return samples


def wall_ms(action: Callable[[], object]) -> float:
    """Milliseconds that something takes by the clock."""
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) * 1000


def undisturbed_ms(action: Callable[[], object]) -> float:
    """Milliseconds by the clock, less those in which this thread was ready and another program had the processor."""
    waited = queued_ns()
    took = wall_ms(action)
    return took - (queued_ns() - waited) / 1e6


def family_cpu_ms() -> float:
    """Processor time of this process and of all children that have ended, so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) * 1000


def queued_ns() -> int:
    """Nanoseconds in which this thread was ready so far, and another program had the processor."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except (OSError, IndexError):
        return 0  # a kernel that does not tell: then it is the plain clock


def cpu_ms(action: Callable[[], object]) -> float:
    """Milliseconds of processor time (user and system) that something takes in this process, all of its threads."""
    begun = time.process_time()
    action()
    return (time.process_time() - begun) * 1000


def run_child(argv: Sequence[str], *, through_socket: bool = False) -> Spent:
    """Run a program to its end, its output thrown away; costs include what it waited for itself.

    Args:
        through_socket: Its standard output is a Unix socket, as the service gives one to its workers.
    """
    ours, its = socket.socketpair()
    with Path(os.devnull).open("r+b") as nothing, ours, its:
        output = its.fileno() if through_socket else nothing.fileno()
        to = (nothing.fileno(), output, nothing.fileno())
        actions = [(os.POSIX_SPAWN_DUP2, source, descriptor) for descriptor, source in enumerate(to)]
        begun = time.perf_counter()
        process_id = os.posix_spawnp(argv[0], list(argv), dict(os.environ), file_actions=actions)
        _, status, usage = os.wait4(process_id, 0)
        wall = (time.perf_counter() - begun) * 1000
    return Spent(wall, (usage.ru_utime + usage.ru_stime) * 1000, os.waitstatus_to_exitcode(status))


def succeed(argv: Sequence[str]) -> str:
    """Run a program that must succeed; what it printed."""
    done = subprocess.run(list(argv), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def tree_of(process_id: int) -> list[int]:
    """A process and all of its living descendants."""
    found, to_ask = [], [process_id]
    while to_ask:
        each = to_ask.pop()
        try:
            children = Path(f"/proc/{each}/task/{each}/children").read_text().split()
        except OSError:
            continue
        found.append(each)
        to_ask += [int(child) for child in children]
    return found


def cpu_seconds(process_id: int) -> float:
    """Processor time of a process so far, with all of its threads and the children that it has reaped."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[at]) for at in (11, 12, 13, 14)) / _TICKS


def on_processor_s(process_id: int) -> float:
    """Seconds that one process has had a processor, to the nanosecond, without its children."""
    return int(Path(f"/proc/{process_id}/schedstat").read_text().split()[0]) / 1e9


class Memory:
    """The most that a process and its descendants held at one moment, as often as it was looked at."""

    most_mib = 0.0


@contextmanager
def watched(process_id: int) -> Iterator[Memory]:
    """Look forty times a second how much memory a process tree holds (PSS: what processes share counts once).

    The peaks that the kernel itself keeps are of no use here: a program's begin with those of whoever started it.
    """
    memory, ended = Memory(), threading.Event()

    def look() -> None:
        while not ended.wait(0.025):
            held = 0
            for each in tree_of(process_id):
                with suppress(OSError):
                    held += memory_kib(each)[0]
            memory.most_mib = max(memory.most_mib, held / 1024)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()


def memory_kib(process_id: int) -> tuple[int, int]:
    """Proportional (PSS) and private memory of one process, KiB."""
    found = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0])
    return found["Pss"], found["Private_Clean"] + found["Private_Dirty"]
