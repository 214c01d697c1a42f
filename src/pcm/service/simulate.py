"""`pcmsvc simulate`: what this client would do at another time, by the same planner, without doing any of it.

Serves step 7, for whoever administers this computer. The plan is that of the records as they are now, as if nothing happened
until then; from there on it is followed in thought: what is due runs, works, and takes as long as it usually does. Who is logged
on, and what servers have shown, stays as it is; nobody is busy, and nothing is in the way. It changes nothing, here or elsewhere.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo

import msgspec
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.errors import RequestError
from pcm.model.schedule import local_to_utc
from pcm.protocol.durations import parse_duration
from pcm.service import tables
from pcm.service.facts import read_facts
from pcm.service.identity import load_identity
from pcm.service.journal import Journal
from pcm.service.machine.interface import Machine
from pcm.service.outlook import Outlook, local_zone
from pcm.service.places import Places
from pcm.service.plan import Line, Plan, Situation
from pcm.service.planner import plan
from pcm.service.planner_case import installs, removes
from pcm.service.records import InstalledRelease, InstructionRecord, UserRun
from pcm.service.state import State

MOST_STARTS = 1000
_LOOKS = 500
_HORIZON = timedelta(days=400)


class Planned(msgspec.Struct, frozen=True, omit_defaults=True):
    """One instruction in the plan of that time. `action` is the planner's: run, fetch, wait, done, refuse and so on."""

    id: str
    package: str
    version: str
    program: str
    action: str
    state: str
    code: str
    reason: str
    run_as: str = ""
    until: datetime | None = None
    deadline: datetime | None = None


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """One start that is to come. `occurrence`: of a recurring order, which of its times."""

    at: datetime
    id: str
    package: str
    version: str
    program: str
    run_as: str
    occurrence: datetime | None = None


class Simulated(msgspec.Struct, frozen=True):
    """The plan of one time, in the order of execution, and the starts that follow."""

    at: datetime
    plan: tuple[Planned, ...]
    starts: tuple[Start, ...]


def read_time(text: str, now: datetime, zone: tzinfo) -> datetime:
    """Read a time: `+2d` from now, or a date and time; without an offset it is read by this computer's clock.

    Raises:
        RequestError: `usage`.
    """
    seconds = parse_duration(text[1:]) if text.startswith("+") else None
    if seconds is not None:
        return now + timedelta(seconds=seconds)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            f"{text[:40]!r} is no time: write +2h, +3d, 2026-01-31T22:00 (this computer's clock) or 2026-01-31T21:00Z.",
            code="usage",
        ) from None
    return local_to_utc(moment, zone) if moment.tzinfo is None else moment.astimezone(UTC)


def simulate(places: Places, machine: Machine, text: str, starts: int, now: datetime) -> Simulated:
    """Plan for another time.

    Args:
        text: That time, as `read_time` takes it.
        starts: How many starts to tell.

    Raises:
        RequestError: `usage`, `not_enrolled`. StoreError: the state cannot be read.
    """
    at = read_time(text, now, local_zone())
    if at < now:
        raise RequestError(
            f"{text[:40]!r} has passed: this looks ahead. `pcmsvc log` and `pcmsvc ledger` tell what was.", code="usage"
        )
    client_id = load_identity(places.identity).client_id
    with State.open(places.state, now, repair=False) as state:
        records = Journal(state).records()
        around = Outlook(state, machine, client_id, read_facts()).situation(records, now)
    if around.hold is not None and around.hold.until is not None and around.hold.until <= at:
        around = replace(around, hold=None)
    made = plan(records, around, at)
    return Simulated(at, tuple(map(_planned, made.lines)), foresee(records, around, at, min(starts, MOST_STARTS)))


def foresee(records: Iterable[InstructionRecord], around: Situation, at: datetime, most: int) -> tuple[Start, ...]:
    """Follow the plan in thought: the first starts from a time on, if everything works. Pure, and bounded."""
    around = replace(around, blocking={}, presence=replace(around.presence, busy=()))
    known = {record.id: record for record in records}
    found: list[Start] = []
    now = at
    for _ in range(_LOOKS):
        made = plan(known.values(), around, now)
        known |= _adopted(made)
        line = next(iter(made.due()), None)
        if line is None:
            change = made.next_change(now)
            if change is None or change > at + _HORIZON:
                break
            now = change
            continue
        found.append(_start(line, now))
        if len(found) >= most:
            break
        known[line.id], around = _done(line, around, now)
        now += _length(line, around)
    return tuple(found)


def _adopted(made: Plan) -> dict[str, InstructionRecord]:
    """The records as the journal would keep them."""
    return {
        line.id: replace(line.record, announced_at=line.announced)
        if not line.speaks
        else replace(line.record, state=line.state, code=line.code, reason=line.reason, announced_at=line.announced)
        for line in made.lines
        if line.changes
    }


def _done(line: Line, around: Situation, now: datetime) -> tuple[InstructionRecord, Situation]:
    """The record and the situation after a run that worked."""
    order, record = line.instruction, line.record
    program = around.manifests[record.manifest_sha256].programs[order.program]
    if program.run_as == "each_user":
        run = UserRun(
            instruction=record.id, generation=record.generation, user=line.run_as, state=Stage.SUCCEEDED, changed=now
        )
        runs = () if line.begins else around.user_runs.get(record.id, ())
        record = replace(record, state=Stage.WAITING, announced_at=None, requested_at=None, requested_by=None)
        return record, replace(around, user_runs={**around.user_runs, record.id: (*runs, run)})
    record = replace(record, state=Stage.SUCCEEDED, code="", reason="", changed=now)
    if not (installs(order.program) or removes(order.program)):
        return record, around
    installed = None if removes(order.program) else order.release
    release = InstalledRelease(order.package, order.release, 1, order.version, installed, now)
    return record, replace(around, releases={**around.releases, order.package: release})


def _length(line: Line, around: Situation) -> timedelta:
    """How long it usually takes: as estimated, or as seen here; of what nobody knows that, no time at all."""
    order, sha256 = line.instruction, line.record.manifest_sha256
    estimated = around.manifests[sha256].programs[order.program].estimated_s or 0
    return timedelta(seconds=max(estimated, around.durations.get((sha256, order.program), 0)))


def _planned(line: Line) -> Planned:
    order = line.instruction
    return Planned(
        id=line.id,
        package=order.package,
        version=order.version,
        program=order.program,
        action=line.action.value,
        state=line.state.value,
        code=line.code,
        reason=line.reason,
        run_as=line.run_as if line.action.value == "run" else "",
        until=line.until,
        deadline=line.deadline,
    )


def _start(line: Line, at: datetime) -> Start:
    order = line.instruction
    return Start(at, line.id, order.package, order.version, order.program, line.run_as, line.record.occurrence)


def in_words(result: Simulated, width: int | None) -> str:
    """The plan and the starts, for people. `width`: of the screen; None: it is none."""
    rows = [
        (each.action.replace("_", " "), f"{each.package} {each.version}", each.program, tables.when(each.until))
        for each in result.plan
    ]
    starts = [
        (tables.when(each.at), f"{each.package} {each.version}", each.program, each.run_as) for each in result.starts
    ]
    reasons = [each.reason for each in result.plan]
    head = ("then", "package", "program", "until")
    return "\n".join(
        [
            f"At {tables.when(result.at)}, as if nothing happened until then:",
            tables.table(head, rows, notes=reasons, width=width, empty="No instructions."),
            "",
            "What would start from then on, if everything works and nobody is busy:",
            tables.table(("starts", "package", "program", "as"), starts, width=width, empty="Nothing."),
        ]
    )
