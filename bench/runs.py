"""What one trivial program costs when the service runs it: `/bin/true`, ten and a hundred times, in one drain of the runner.

Everything is as in a real check: the plan, the package directory staged and verified, the start on the disk
before it happens, the process tree owned to its end, its output kept, detection, result, outcome and ledger in one durable
transaction. Beside it: a shell's loop and a bare `subprocess.run`; and what one durable write costs on this disk.
"""

import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.drain import drain_client, make_client
from bench.measure import Report, Sample, family_cpu_ms, in_turns, undisturbed_ms, wall_ms
from bench.place import temporary_folder
from pcm.service.machine.here import this_machine

SIZES = ((10, 7), (100, 5))
MOST_OVER_MS = 15.0
_LOOP = 'n=0; while [ "$n" -lt "$1" ]; do /bin/true; n=$((n+1)); done'


def measure(report: Report) -> None:
    """Add the figures for every size."""
    for size, repeats in SIZES:
        with temporary_folder() as folder:
            _measure_size(report, folder, size, repeats)


def _measure_size(report: Report, folder: Path, size: int, repeats: int) -> None:
    homes = iter(folder / str(number) for number in range(repeats))
    spent = {"runner": Sample(), "bare": Sample()}
    took = in_turns(
        {
            "runner": lambda: run_all(next(homes), size, spent["runner"]),
            "bare": lambda: undisturbed_ms(lambda: _spend(spent["bare"], lambda: _run_bare(size))),
            "sh": lambda: undisturbed_ms(lambda: _run_in_shell(size)),
            "commit": lambda: _commit_ms(folder),
        },
        repeats,
    )
    each = {name: took[name].median / size for name in ("runner", "bare", "sh")}
    title = f"{size} programs by the runner"
    bare = ("bare subprocess.run", each["bare"])
    report.add(f"{title} ({this_machine().name}), each", each["runner"], "ms", peer=bare)
    report.add(f"{title}, each, beside sh", each["runner"], "ms", peer=("sh loop", each["sh"]))
    report.add(
        f"{size} programs: overhead of each over bare subprocess",
        each["runner"] - each["bare"],
        "ms",
        peer=("one durable SQLite commit here", took["commit"].median),
        at_most=MOST_OVER_MS,
    )
    least = (took["runner"].least - took["bare"].least) / size
    report.add(f"{size} programs: overhead, least of all repeats", least, "ms")
    report.add(
        f"{title}: CPU of each, program included",
        spent["runner"].median / size,
        "ms",
        peer=("bare subprocess.run", spent["bare"].median / size),
    )


def run_all(home: Path, size: int, spent: Sample) -> float:
    """Have a fresh client run `size` instructions; milliseconds from the first plan to the last, without making the client."""
    make_client(home, size)
    return drain_client(home, size, lambda drained: undisturbed_ms(lambda: _spend(spent, drained)))


def _spend(spent: Sample, action: Callable[[], object]) -> None:
    """Do something, and note the processor time that it and its children took."""
    before = family_cpu_ms()
    action()
    spent.values.append(family_cpu_ms() - before)


def _run_bare(size: int) -> None:
    for _ in range(size):
        subprocess.run(["/bin/true"], stdin=subprocess.DEVNULL, capture_output=True, check=True)


def _run_in_shell(size: int) -> None:
    subprocess.run(["/bin/sh", "-c", _LOOP, "sh", str(size)], stdin=subprocess.DEVNULL, capture_output=True, check=True)


def _commit_ms(folder: Path) -> float:
    """One transaction of one row that is on the disk when it returns, as the state database is set."""
    database = sqlite3.connect(folder / "commit.db", isolation_level=None)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE IF NOT EXISTS kept (value TEXT)")
        insert: Callable[[], object] = lambda: database.execute("INSERT INTO kept VALUES ('x')")  # noqa: E731
        return min(wall_ms(insert) for _ in range(20))
    finally:
        database.close()
