"""What one trivial program costs when the service runs it: `/bin/true`, ten and a hundred times, in one drain of the runner.

Everything is as in a real check: the plan before each run, the package directory staged and verified, the start on the disk
before it happens, the process tree owned to its end, its output kept, detection, result, outcome and ledger in one durable
transaction. Beside it: a shell's loop and a bare `subprocess.run`; and what one durable write costs on this disk.
"""

import hashlib
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.measure import Report, Sample, family_cpu_ms, in_turns, undisturbed_ms, wall_ms
from bench.place import temporary_folder
from pcm.content.client_store import ClientStore
from pcm.model.assignment import State as Stage
from pcm.model.detection import FileDetection
from pcm.model.facts import Facts
from pcm.model.instruction import Instruction, ManifestReference
from pcm.model.package import PackageFile
from pcm.model.program import Program
from pcm.protocol.manifest import Manifest, manifest_target, write_manifest
from pcm.service.journal import Verified
from pcm.service.machine.here import this_machine
from pcm.service.plan import Situation
from pcm.service.runner import drain
from pcm.service.state import State
from pcm.service.work import Context

SIZES = ((10, 7), (100, 5))
MOST_OVER_MS = 15.0
_CLIENT = "0123456789abcdef0123456789abcdef"
_FILE = b"one small file to be staged\n" * 40
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
    manifest = _manifest()
    body = write_manifest(manifest)
    sha256 = hashlib.sha256(body).hexdigest()
    for name in ("staging", "runs"):
        (home / name).mkdir(mode=0o700, parents=True)
    with State.open(home, _now()) as state:
        context = _context(home, state)
        wanted = [Verified(_instruction(manifest, body, number)) for number in range(size)]
        with state.transaction() as connection:
            context.journal.take_in(wanted, _now())
            connection.execute("INSERT INTO manifests (sha256, body) VALUES (?, ?)", (sha256, body))
        context.store.add(manifest.files[0].sha256, len(_FILE), [_FILE], "bench")
        took = undisturbed_ms(lambda: _spend(spent, lambda: drain(context, lambda _: _situation(context))))
        states = {record.state for record in context.journal.records()}
        if states != {Stage.SUCCEEDED} or state.rows("SELECT count(*) FROM ledger") != [(size,)]:
            raise RuntimeError(f"not every program ran: {states}")
    return took


def _manifest() -> Manifest:
    # a repair runs although its detection holds, so that /bin/true can have one
    program = Program(argv=("/bin/true",), detect=FileDetection(path="/bin/true"), timeout_s=20)
    return Manifest(
        package="trivial",
        version="1.0",
        release=1,
        platforms=("linux-any",),
        programs={"repair": program},
        files=(PackageFile("readme", len(_FILE), hashlib.sha256(_FILE).hexdigest(), executable=False),),
        signed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def _instruction(manifest: Manifest, body: bytes, number: int) -> Instruction:
    path = manifest_target("team", manifest.package, manifest.version)
    offered = _now() - timedelta(hours=1)
    return Instruction(
        id=f"j{number:010d}.{_CLIENT[:12]}",
        generation=1,
        job=f"j{number:010d}",
        package=manifest.package,
        version=manifest.version,
        release=manifest.release,
        program="repair",
        manifest=ManifestReference(path, len(body), hashlib.sha256(body).hexdigest()),
        purpose="mandatory",
        offer_after=offered,
        mandatory_after=offered,
    )


def _context(home: Path, state: State) -> Context:
    return Context(
        state=state,
        machine=this_machine(),
        store=ClientStore(home / "store"),
        bring=lambda _files, _staging: None,
        agree=lambda _instruction, _program, _at: None,
        clock=_now,
        zone=UTC,
        staging=home / "staging",
        runs=home / "runs",
    )


def _situation(context: Context) -> Situation:
    """As `service.outlook` finds it, on a client without users, windows and policy."""
    wanted = {record.manifest_sha256 for record in context.journal.records()}
    return Situation(
        client_id=_CLIENT,
        facts=Facts("host", "linux-x86_64", "", "", ""),
        zone=UTC,
        manifests=context.history.manifests(wanted),
        releases=context.state.releases(),
    )


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


def _now() -> datetime:
    return datetime.now(UTC)
