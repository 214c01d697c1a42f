"""A client with trivial work, and the draining of it: as a function for `bench.runs`, and as a process for `bench.beside`.

The process imports what the service's own worker does, in the same way, and nothing of a site or of this bench, so that its start
counts for what it is.
"""

from bench import as_worker  # noqa: F401 - first

# isort: split
import hashlib
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
from pcm.service.records import InstructionRecord
from pcm.service.runner import drain
from pcm.service.state import State
from pcm.service.work import Context

_CLIENT = "0123456789abcdef0123456789abcdef"
_FILE = b"one small file to be staged\n" * 40


def make_client(home: Path, size: int) -> None:
    """A client's state with so many instructions, due at once, and the one file of their package."""
    manifest = _manifest()
    body = write_manifest(manifest)
    for name in ("staging", "runs"):
        (home / name).mkdir(mode=0o700, parents=True)
    with State.open(home, _now()) as state:
        context = _context(home, state)
        wanted = [Verified(_instruction(manifest, body, number)) for number in range(size)]
        with state.transaction() as connection:
            context.journal.take_in(wanted, _now())
            rows = (hashlib.sha256(body).hexdigest(), body)
            connection.execute("INSERT INTO manifests (sha256, body) VALUES (?, ?)", rows)
        context.store.add(manifest.files[0].sha256, len(_FILE), [_FILE], "bench")


def drain_client(home: Path, size: int, measured: Callable[[Callable[[], object]], float]) -> float:
    """Run everything that is due on such a client; what `measured` gives for the draining.

    Raises:
        RuntimeError: not every program ran.
    """
    with State.open(home, _now()) as state:
        context = _context(home, state)
        took = measured(lambda: drain(context, lambda records: _situation(context, records)))
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
        bring=lambda _needed: None,
        agree=lambda _instruction, _program, _at: None,
        clock=_now,
        zone=UTC,
        staging=home / "staging",
        runs=home / "runs",
    )


def _situation(context: Context, records: Iterable[InstructionRecord]) -> Situation:
    """As `service.outlook` finds it, on a client without users, windows and policy."""
    wanted = {record.manifest_sha256 for record in records}
    return Situation(
        client_id=_CLIENT,
        facts=Facts("host", "linux-x86_64", "", "", ""),
        zone=UTC,
        manifests=context.history.manifests(wanted),
        releases=context.state.releases(),
    )


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> int:
    """Process entry: `HOME SIZE`; drain a client that stands there."""
    home, size = Path(sys.argv[1]), int(sys.argv[2])
    drain_client(home, size, _without_measuring)
    return 0


def _without_measuring(action: Callable[[], object]) -> float:
    action()
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
