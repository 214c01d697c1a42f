"""What the steps of a run share: the tools they are given (`Context`) and what they have made so far (`Work`).

Serves steps 8–11: `service.worker` makes the context, `service.runner` the work, `service.steps` use both. Whatever reaches
out of this process (network, approvals, clock) comes in here as a plain function, so that each step can be tried without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path

from pcm.content.client_store import ClientStore
from pcm.model.detection import Detection
from pcm.model.instruction import Instruction
from pcm.model.package import PackageFile
from pcm.model.program import Program
from pcm.protocol.manifest import Manifest
from pcm.service.history import History
from pcm.service.journal import Journal
from pcm.service.machine.detection import Look, detect
from pcm.service.machine.interface import Ended, Machine, RunReference
from pcm.service.machine.package_directory import PackageDirectory
from pcm.service.plan import Line
from pcm.service.records import InstructionRecord, RunRecord
from pcm.service.state import State

Bring = Callable[[Sequence[PackageFile], int], None]
"""See to it that the store holds these files, with this many bytes left over for staging and the program; raises StoreError,
TransferError, TrustError (`content.assembly.bring` with the site's servers)."""

Agree = Callable[[Instruction, Program, datetime], None]
"""Count the approvals that an instruction carries, at this time; raises TrustError `trust.approval` if they are too few."""


@dataclass(frozen=True, slots=True)
class Context:
    """The tools of one check.

    Attributes:
        clock: Aware, UTC.
        zone: The client's time zone, for times that mean its own clock.
        staging: Protected folder of the package directories.
        runs: Protected folder of the runs' output.
    """

    state: State
    machine: Machine
    store: ClientStore
    bring: Bring
    agree: Agree
    clock: Callable[[], datetime]
    zone: tzinfo
    staging: Path
    runs: Path

    @property
    def history(self) -> History:
        """Runs and steps."""
        return History(self.state)

    @property
    def journal(self) -> Journal:
        """Instructions and outcomes."""
        return Journal(self.state)

    def holds(self, detection: Detection, package_directory: Path | None = None) -> bool:
        """Look at the computer.

        Raises:
            MachineError: it cannot be told.
        """
        return detect(detection, Look(self.machine, self.runs, package_directory)).found


@dataclass(slots=True)
class Work:
    """One run as far as it has come. `detail` goes into the journal with the end of the present step."""

    line: Line
    run_id: str
    manifest: Manifest
    program: Program
    staging: PackageDirectory | None = None
    reference: RunReference | None = None
    run: RunRecord | None = None
    ended: Ended | None = None
    detail: dict[str, object] = field(default_factory=dict)

    @property
    def record(self) -> InstructionRecord:
        """The instruction as it was planned."""
        return self.line.record

    @property
    def instruction(self) -> Instruction:
        """The instruction."""
        return self.line.record.instruction
