"""What the steps of a run share: the tools they are given (`Context`) and what they have made so far (`Work`).

Serves steps 8–11: `service.worker` makes the context, `service.runner` the work, `service.steps` use both. Whatever reaches
out of this process (network, approvals, clock) comes in here as a plain function, so that each step can be tried without it.
"""

import os
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import NamedTuple

import msgspec

from pcm.content.client_store import ClientStore
from pcm.model.detection import Detection, FileDetection
from pcm.model.instruction import Instruction
from pcm.model.program import EACH_USER, Program
from pcm.protocol.manifest import Manifest
from pcm.service.handover import Handover
from pcm.service.history import History
from pcm.service.journal import Change
from pcm.service.machine.detection import Detected, Look, detect
from pcm.service.machine.interface import SYSTEM, Ended, Machine, RunReference
from pcm.service.machine.package_directory import PackageDirectory
from pcm.service.plan import Line
from pcm.service.records import InstructionRecord, RunRecord
from pcm.service.state import State


class Needed(NamedTuple):
    """A package whose files the store shall hold, with so many bytes left over for staging and the program.

    `early`: nothing waits for it yet.
    """

    manifest_sha256: str
    manifest: Manifest
    staging_bytes: int
    early: bool = False


Bring = Callable[[Needed], None]
"""See to it that the store holds what is needed; raises StoreError, TransferError, TrustError (`content_bring`)."""

Agree = Callable[[Instruction, Program, datetime], None]
"""Count the approvals that an instruction carries, at this time; raises TrustError `trust.approval` if they are too few."""


def new_run_id() -> str:
    """A number for a run that no other has, and that nobody guesses; that of a later run is higher.

    So the rows of one run lie beside those of the last one, and a commit writes fewer pages.
    """
    return f"{time.time_ns() // 1000:014x}{os.urandom(9).hex()}"


class Context:
    """The tools of one check.

    Attributes:
        history: Runs and steps.
        handover: What the run before has left to be stored.
        journal: Instructions and outcomes.
        clock: Aware, UTC.
        zone: The client's time zone, for times that mean its own clock.
        staging: Protected folder of the package directories.
        runs: Protected folder of the runs' output.
        pause: Lets seconds pass.
    """

    def __init__(
        self,
        *,
        state: State,
        machine: Machine,
        store: ClientStore,
        bring: Bring,
        agree: Agree,
        clock: Callable[[], datetime],
        zone: tzinfo,
        staging: Path,
        runs: Path,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.state = state
        self.history = History(state)
        self.handover = Handover(state)
        self.journal = self.history.journal
        self.machine = machine
        self.store = store
        self.bring = bring
        self.agree = agree
        self.clock = clock
        self.zone = zone
        self.staging = staging
        self.runs = runs
        self.pause = pause

    def holds(self, detection: Detection, run_as: str = SYSTEM) -> bool:
        """Look at the computer, with a detection's own commands run as somebody.

        Raises:
            MachineError: it cannot be told.
        """
        return self.look(detection, run_as).found

    def look(self, detection: Detection, run_as: str = SYSTEM) -> Detected:
        """Look at the computer, and tell what is there.

        Raises:
            MachineError: it cannot be told.
        """
        if not isinstance(detection, FileDetection) or detection.sha256 is not None:
            self.turn_to_what_takes_long()
        return detect(detection, Look(self.machine, self.runs, run_as=run_as))

    def turn_to_what_takes_long(self) -> None:
        """Write down what has happened so far: somebody may ask meanwhile, or the power may go.

        Raises:
            StoreError: it cannot be recorded.
        """
        self.handover.settle()
        self.state.write_notes()


class Judged(NamedTuple):
    """What the end of a run would mean, before it is stored. `change` has the result.

    `verdict`: of the run by itself; the same as `change`, except for a program that returns to the last good version.
    """

    run: RunRecord
    record: InstructionRecord
    manifest: Manifest | None
    change: Change
    verdict: Change


class Work(msgspec.Struct):
    """One run as far as it has come. `detail` goes into the journal with the end of the present step.

    Attributes:
        program: The one that runs: the instruction's own, or the one that returns to the last good version.
        returning: That one's name; empty for the instruction's own.
        judged: Its program has worked, and its health is still to be looked at.
        unhealthy: Its end is stored, and the return is to come.
        followed: Another run of the same plan comes right after it.
    """

    line: Line
    run_id: str
    manifest: Manifest
    program: Program
    staging: PackageDirectory | None = None
    reference: RunReference | None = None
    run: RunRecord | None = None
    ended: Ended | None = None
    returning: str = ""
    judged: Judged | None = None
    unhealthy: bool = False
    followed: bool = False
    detail: dict[str, object] = msgspec.field(default_factory=dict)

    @property
    def record(self) -> InstructionRecord:
        """The instruction as it was planned."""
        return self.line.record

    @property
    def instruction(self) -> Instruction:
        """The instruction."""
        return self.line.record.instruction

    @property
    def for_each_user(self) -> bool:
        """Whether this is one user's part of a program that runs once for each."""
        return self.program.run_as == EACH_USER

    @property
    def program_name(self) -> str:
        """Name of the program that runs."""
        return self.returning or self.instruction.program

    def needed(self, *, early: bool = False) -> Needed:
        """What it needs of content."""
        room = self.manifest.content_bytes() + self.program.disk_bytes
        return Needed(self.record.manifest_sha256, self.manifest, room, early)

    def point(self, name: str) -> str:
        """Name of a fault point: what returns passes points of its own."""
        return f"return.{name}" if self.returning else name
