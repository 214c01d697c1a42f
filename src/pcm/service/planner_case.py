"""What the planner's rules look at: one instruction with its times worked out (`Case`), and what they share (`Desk`). Pure.

Serves step 7, between `pcm.service.planner`, which makes these, and `pcm.service.planner_rules`, which read them. A recurring
order is looked at as its latest occurrence that has come: times count from there, and its record begins anew, in the plan at
once and in the journal when it adopts the plan. Whoever shows or checks times takes them from `times_of`, too.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.instruction import Instruction
from pcm.model.program import Program
from pcm.model.schedule import (
    next_occurrence,
    next_opening,
    occurrence_at,
    occurrence_time,
    open_span,
    reading_of,
    resolve,
)
from pcm.protocol.manifest import Manifest
from pcm.service.plan import Situation
from pcm.service.records import InstructionRecord

NEVER = datetime.max.replace(tzinfo=UTC)
REMOVING = "uninstall"
DONE_WELL = frozenset({Stage.SUCCEEDED, Stage.ALREADY_INSTALLED})
AT_WORK = frozenset({Stage.RUNNING, Stage.RESTART_PENDING})
SETTLED = DONE_WELL | {Stage.FAILED, Stage.CANCELLED, Stage.UNKNOWN, Stage.EXPIRED, Stage.WITHDRAWN}


def removes(program: str) -> bool:
    """Tell whether a program takes its package away: it is named `uninstall`, or `uninstall-...`."""
    return program == REMOVING or program.startswith(f"{REMOVING}-")


def installs(program: str) -> bool:
    """Tell whether a program puts its package on: it is named `install`, or `install-...`."""
    return program == "install" or program.startswith("install-")


class Times(NamedTuple):
    """Times of an instruction in UTC; of a recurring one, those of one occurrence. `deadline` None: it is optional."""

    offer: datetime
    deadline: datetime | None
    expires: datetime | None


def times_of(wanted: Instruction, occurrence: datetime | None, zone: tzinfo) -> Times:
    """Work out an instruction's times.

    Args:
        occurrence: As its record names it; deadline and expiry keep their distance from it (KB Q141192). None: it does not
            recur, or has not begun to.
        zone: The client's.
    """
    clock = wanted.clock
    moments = (wanted.offer_after, wanted.mandatory_after, wanted.expires_after)
    if occurrence is not None:
        shift = occurrence.replace(tzinfo=None) - reading_of(wanted.offer_after, clock)
        readings = (None if moment is None else reading_of(moment, clock) for moment in moments)
        moments = tuple(None if reading is None else (reading + shift).replace(tzinfo=UTC) for reading in readings)  # type: ignore[assignment]
    offer, deadline, expires = moments
    return Times(
        resolve(offer, clock, zone),
        None if deadline is None else resolve(deadline, clock, zone),
        None if expires is None else resolve(expires, clock, zone),
    )


class Case(NamedTuple):
    """One instruction with its times in UTC. `manifest` and `program` are None if they are not known here.

    `begins`: its record begins anew with another occurrence, and is given as it then is. `again`: when the next one comes.
    """

    record: InstructionRecord
    instruction: Instruction
    manifest: Manifest | None
    program: Program | None
    offer: datetime
    deadline: datetime | None
    expires: datetime | None
    requested: bool
    begins: bool = False
    again: datetime | None = None

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


def make_case(record: InstructionRecord, situation: Situation, now: datetime) -> Case:
    """Look up an instruction's program and work out its times."""
    wanted = record.instruction
    manifest = situation.manifests.get(wanted.manifest.sha256)
    begins, again = False, None
    if wanted.recurrence is None:
        clock, zone = wanted.clock, situation.zone
        offer = resolve(wanted.offer_after, clock, zone)
        deadline = None if wanted.mandatory_after is None else resolve(wanted.mandatory_after, clock, zone)
        expires = None if wanted.expires_after is None else resolve(wanted.expires_after, clock, zone)
    else:
        known, record = record, _recurring(record, wanted.recurrence, situation.zone, now)
        begins = record is not known
        following = _following(record, wanted.recurrence, situation.zone, now)
        again = None if following is None else occurrence_time(following, wanted.clock, situation.zone)
        offer, deadline, expires = times_of(wanted, record.occurrence or following, situation.zone)
        if record.occurrence is None and following is None:
            offer, expires = NEVER, None
    asked = record.requested_at
    return Case(
        record=record,
        instruction=wanted,
        manifest=manifest,
        program=None if manifest is None else manifest.programs.get(wanted.program),
        offer=offer,
        deadline=deadline,
        expires=expires,
        # after a failure only a new wish counts
        requested=wanted.purpose == "optional"
        and asked is not None
        and (record.state is not Stage.FAILED or asked > record.changed),
        begins=begins,
        again=again,
    )


def _recurring(record: InstructionRecord, rule: str, zone: tzinfo, now: datetime) -> InstructionRecord:
    """The record as it stands with the occurrence that has come. What is at work first comes to its end."""
    if not record.present or record.state in AT_WORK:
        return record
    order, known = record.instruction, record.occurrence
    come = occurrence_at(rule, order.offer_after, order.clock, zone, now)
    if come is None or (known is not None and come <= known):
        return record
    return replace(
        record,
        occurrence=come,
        state=Stage.OFFERED,
        code="",
        reason="",
        changed=now,
        not_before=None,
        attempts=0,
        requested_at=None,
        requested_by=None,
        deferred_until=None,
        deferrals=0,
        restart_boot_id=None,
        announced_at=None,
        history_lost=record.history_lost and known is None,
    )


def _following(record: InstructionRecord, rule: str, zone: tzinfo, now: datetime) -> datetime | None:
    order = record.instruction
    if not record.present:
        return None
    return next_occurrence(rule, order.offer_after, order.clock, zone, now, record.occurrence)


class Desk(NamedTuple):
    """What all rules share: the situation, the time, all cases by instruction id and job, contradictions, the windows of now.

    `superseded`: by instruction id, what takes its place.
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
    superseded: Mapping[str, Case]
    explain: bool = False

    def find(self, name: str) -> Case | None:
        """The case that `after` names, by instruction id or job."""
        return self.cases.get(name) or self.by_job.get(name)

    def in_place_of(self, case: Case) -> Case:
        """What takes a case's place in the end; the case itself if nothing does. What waits for the one waits for the other."""
        seen = set()
        while case.record.id in self.superseded and case.record.id not in seen:
            seen.add(case.record.id)
            case = self.superseded[case.record.id]
        return case


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
        superseded={},
        longest_window=timedelta(minutes=max((window.minutes for window in windows), default=0)),
        explain=explain,
    )
