"""A client of its own in one folder: one package of a few shell lines, run by the real runner on the real machine.

The program appends a line to `counter` each time it runs, then makes `installed`, which is what its detection looks for. What is
`unhealthy` returns by `undo`, which appends a line to `undone`. Run as a script, it does one whole check (reconcile, take in, drain) and prints what the journal then knows; `PCM_FAULT` kills it on the way:

    python tests/integration/service_engine/trivial.py DIR [program [boot]]

With `boot`, as on a computer whose boot has that id. `pair`: the same program for two orders, one right after the other; the fault
is that of the second run.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pcm.content.client_store import ClientStore
from pcm.model.detection import FileDetection, Not
from pcm.model.errors import TrustError
from pcm.model.facts import Facts
from pcm.model.instruction import Instruction, ManifestReference, Notify
from pcm.model.package import PackageFile
from pcm.model.program import ExitCodes, Program
from pcm.protocol.manifest import Manifest, manifest_target, write_manifest
from pcm.service import faults, recovery, runner
from pcm.service.journal import Verified
from pcm.service.machine.here import this_machine
from pcm.service.machine.interface import Machine
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.plan import Plan, Situation
from pcm.service.records import InstructionRecord
from pcm.service.state import State
from pcm.service.work import Context, Needed

CLIENT = "0123456789abcdef0123456789abcdef"
BLOCKER = "pcm-test-blocker"
SETUP = b'#!/bin/sh\necho "$PCM_RUN_ID" >> "$1/counter"\necho working\ntouch "$1/installed"\nexit ${2:-0}\n'


class Rebooted(LinuxMachine):
    """This computer in another boot."""

    def __init__(self, boot: str) -> None:
        super().__init__()
        self.boot = boot

    def boot_id(self) -> str:
        """Its id."""
        return self.boot


class Client:
    """A client whose servers always answer: what its store lacks is written by `bring` from memory.

    Args:
        home: Its folder; the program's marks are made here too.
        programs: Of its one package, by name; `install` and `uninstall` if none are given.
    """

    def __init__(
        self,
        home: Path,
        programs: dict[str, Program] | None = None,
        *,
        machine: Machine | None = None,
        setup: bytes = SETUP,
    ) -> None:
        self.home = home
        self.content = {hashlib.sha256(setup).hexdigest(): setup}
        self.machine = machine or this_machine()
        self.brought: list[str] = []
        self.refuse_approval = False
        self.on_agree: Callable[[Instruction], None] = lambda _instruction: None
        self.shift = timedelta()
        done = FileDetection(path=str(home / "installed"))
        remove = ("/bin/rm", "-f", str(home / "installed"))
        undo = f"echo x >> '{home}/undone'; rm -f '{home}/installed'; echo undone"
        programs = programs or {
            "checked": Program(
                argv=("setup", str(home)), detect=done, health=done, blocking_processes=(BLOCKER,), timeout_s=20
            ),
            "unhealthy": Program(
                argv=("setup", str(home)),
                detect=done,
                health=Not(of=done),
                health_within_s=1,
                rollback_to="undo",
                timeout_s=20,
            ),
            "undo": Program(argv=("/bin/sh", "-c", undo), detect=Not(of=done), timeout_s=20),
            "install": Program(argv=("setup", str(home)), detect=done, timeout_s=20),
            "repair": Program(argv=("setup", str(home)), detect=done, timeout_s=20),
            "uninstall": Program(argv=remove, detect=Not(of=done), timeout_s=20),
            "restart": Program(argv=("setup", str(home), "42"), exit_codes=ExitCodes(restart=(42,)), timeout_s=20),
        }
        files = tuple(PackageFile("setup", len(body), name, True) for name, body in self.content.items())
        self.manifest = Manifest(
            package="trivial",
            version="1.0",
            release=1,
            platforms=("linux-any", "macos-any"),
            programs=programs,
            files=files,
            signed_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for folder in ("var", "var/staging", "var/runs"):
            (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state = State.open(home / "var", self.now())
        self.context = Context(
            state=self.state,
            machine=self.machine,
            store=ClientStore(home / "var" / "store"),
            bring=self.bring,
            agree=self.agree,
            clock=self.now,
            zone=UTC,
            staging=home / "var" / "staging",
            runs=home / "var" / "runs",
        )

    def now(self) -> datetime:
        """The real time, moved by `shift`."""
        return datetime.now(UTC) + self.shift

    def bring(self, needed: Needed) -> None:
        """The distribution server."""
        for file in needed.manifest.files:
            if not self.context.store.has(file.sha256, file.length):
                self.brought.append(file.path)
                self.context.store.add(file.sha256, file.length, [self.content[file.sha256]], "memory")

    def agree(self, instruction: Instruction, _program: Program, _now: datetime) -> None:
        """The approvers."""
        self.on_agree(instruction)
        if self.refuse_approval:
            raise TrustError("Too few approvals.", code="trust.approval")

    def instruction(self, number: int = 1, **fields: object) -> Instruction:
        """An instruction for the package, due at once."""
        body = write_manifest(self.manifest)
        values: dict[str, object] = {
            "id": f"j{number:010d}.{CLIENT[:12]}",
            "generation": 1,
            "job": f"j{number:010d}",
            "package": "trivial",
            "version": "1.0",
            "release": 1,
            "program": "install",
            "manifest": ManifestReference(
                manifest_target("team", "trivial", "1.0"), len(body), hashlib.sha256(body).hexdigest()
            ),
            "purpose": "mandatory",
            "offer_after": datetime(2026, 1, 1, tzinfo=UTC),
        }
        values.update(fields)
        if values["purpose"] == "mandatory":
            values.setdefault("mandatory_after", values["offer_after"])
        return Instruction(**values)  # type: ignore[arg-type]

    def take_in(self, *instructions: Instruction) -> None:
        """The newest verified instruction file."""
        body = write_manifest(self.manifest)
        with self.state.transaction() as connection:
            self.context.journal.take_in([Verified(each) for each in instructions], self.now())
            connection.execute(
                "INSERT OR IGNORE INTO manifests VALUES (?, ?)", (hashlib.sha256(body).hexdigest(), body)
            )

    def situation(self, records: Iterable[InstructionRecord] | None = None) -> Situation:
        """As the worker would find it."""
        wanted = {record.manifest_sha256 for record in records or self.context.journal.records()}
        return Situation(
            client_id=CLIENT,
            facts=Facts(host_name="host", platform="linux-x86_64"),
            zone=UTC,
            manifests=self.context.history.manifests(wanted),
            releases=self.state.releases(),
        )

    def check(self, *instructions: Instruction) -> Plan:
        """One whole check, as the worker does it."""
        recovery.reconcile(self.context)
        if instructions:
            self.take_in(*instructions)
        return runner.drain(self.context, self.situation)

    def counted(self, name: str = "counter") -> int:
        """How often the program has run; `undone`: the one that returns."""
        path = self.home / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    def close(self) -> None:
        """Close the state."""
        self.state.close()


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not happen in time")
        time.sleep(0.01)


def main(arguments: Sequence[str]) -> int:
    """One check in this process."""
    client = Client(Path(arguments[0]), machine=Rebooted(arguments[2]) if len(arguments) > 2 else None)
    program = arguments[1] if len(arguments) > 1 else "install"
    if program == "pair":
        first, second = (client.instruction(number, program="repair") for number in (1, 2))
        client.on_agree = lambda asked: faults.arm(os.environ, home_given=True) if asked.id == second.id else None
        client.check(first, second)
    else:
        faults.arm(os.environ, home_given=True)
        client.check(client.instruction(program=program, blocking_policy="close", notify=Notify(countdown_s=1)))
    history = client.context.history
    records = client.context.journal.records()
    told = {
        "counter": client.counted(),
        "undone": client.counted("undone"),
        "records": [(record.id, record.state.value, record.code) for record in records],
        "runs": [len(history.runs(record.id, record.generation)) for record in records],
        "open": len(history.open_runs()),
        "outcomes": [
            (outcome.state.value, outcome.code, outcome.result is not None)
            for _, outcome in client.context.journal.unreported()
        ],
        "ledger": client.state.rows("SELECT count(*) FROM ledger")[0][0],
        "staging": sorted(path.name for path in client.context.staging.iterdir()),
    }
    client.close()
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
