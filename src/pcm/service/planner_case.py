"""What the planner's rules look at: one instruction with its times worked out (`Case`), and what they share (`Desk`). Pure.

Serves step 7, between `pcm.service.planner`, which makes these, and `pcm.service.planner_rules`, which read them. Nothing here
decides.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pcm.model.assignment import State as Stage
from pcm.model.instruction import Instruction
from pcm.model.program import Program
from pcm.model.schedule import next_opening, open_span, resolve
from pcm.protocol.manifest import Manifest
from pcm.service.plan import Situation
from pcm.service.records import InstructionRecord

NEVER = datetime.max.replace(tzinfo=UTC)
REMOVING = "uninstall"
DONE_WELL = frozenset({Stage.SUCCEEDED, Stage.ALREADY_INSTALLED})
SETTLED = DONE_WELL | {Stage.FAILED, Stage.CANCELLED, Stage.UNKNOWN, Stage.EXPIRED, Stage.WITHDRAWN}


def removes(program: str) -> bool:
    """Tell whether a program takes its package away: it is named `uninstall`, or `uninstall-...`."""
    return program == REMOVING or program.startswith(f"{REMOVING}-")


class Case(NamedTuple):
    """One instruction with its times in UTC. `manifest` and `program` are None if they are not known here."""

    record: InstructionRecord
    instruction: Instruction
    manifest: Manifest | None
    program: Program | None
    offer: datetime
    deadline: datetime | None
    expires: datetime | None
    requested: bool

    @property
    def due(self) -> datetime:
        """What it is ordered by: its deadline, or when a user asked for it."""
        if self.requested and self.record.requested_at is not None:
            return self.record.requested_at
        return self.deadline or NEVER

    @property
    def settled(self) -> bool:
        """Whether nothing more happens in this generation, unless somebody asks again."""
        return self.record.state in SETTLED and not (self.requested and self.record.state is Stage.FAILED)

    def name(self) -> str:
        """How messages call it."""
        wanted = self.instruction
        return f"{wanted.package} {wanted.version} ({wanted.program}, job {wanted.job})"


def make_case(record: InstructionRecord, situation: Situation) -> Case:
    """Look up an instruction's program and work out its times."""
    wanted = record.instruction
    manifest = situation.manifests.get(wanted.manifest.sha256)
    clock, zone = wanted.clock, situation.zone
    asked = record.requested_at
    return Case(
        record=record,
        instruction=wanted,
        manifest=manifest,
        program=None if manifest is None else manifest.programs.get(wanted.program),
        offer=resolve(wanted.offer_after, clock, zone),
        deadline=None if wanted.mandatory_after is None else resolve(wanted.mandatory_after, clock, zone),
        expires=None if wanted.expires_after is None else resolve(wanted.expires_after, clock, zone),
        # after a failure only a new wish counts
        requested=wanted.purpose == "optional"
        and asked is not None
        and (record.state is not Stage.FAILED or asked > record.changed),
    )


class Desk(NamedTuple):
    """What all rules share: the situation, the time, all cases by instruction id and job, contradictions, the windows of now.

    `explain`: somebody reads the findings of rules that hold, too.
    """

    situation: Situation
    now: datetime
    cases: Mapping[str, Case]
    by_job: Mapping[str, Case]
    contradictions: Mapping[str, str]
    open_until: datetime | None
    next_window: datetime | None
    longest_window: timedelta
    explain: bool = False

    def find(self, name: str) -> Case | None:
        """The case that `after` names, by instruction id or job."""
        return self.cases.get(name) or self.by_job.get(name)


def make_desk(
    cases: Mapping[str, Case],
    contradictions: Mapping[str, str],
    situation: Situation,
    now: datetime,
    *,
    explain: bool = False,
) -> Desk:
    """Work out once what every rule needs."""
    windows = situation.windows
    span = open_span(windows, now, situation.zone) if windows else None
    return Desk(
        situation=situation,
        now=now,
        cases=cases,
        by_job={cases[name].instruction.job: cases[name] for name in sorted(cases)},
        contradictions=contradictions,
        open_until=None if span is None else span[1],
        next_window=next_opening(windows, now, situation.zone) if windows else None,
        longest_window=timedelta(minutes=max((window.minutes for window in windows), default=0)),
        explain=explain,
    )
