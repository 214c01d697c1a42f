"""Who asks over the local socket, what concerns them, and what they may ask for: rules, without doing any of it.

Serves step 9, between `local_api`, which knows from the kernel who asks, and `local_acts` and `views`. One rule for what is shown
and for what is done, so that nobody is offered what is refused afterwards. What one user asked for, another can neither take back
nor take over.
"""

from datetime import datetime
from typing import NamedTuple

from pcm.model.assignment import State as Stage
from pcm.model.errors import RequestError
from pcm.model.program import Program
from pcm.model.schedule import resolve
from pcm.protocol.manifest import Manifest
from pcm.service.journal import Journal
from pcm.service.outlook import local_zone
from pcm.service.plan import Line
from pcm.service.planner_case import DONE_WELL, SETTLED
from pcm.service.records import InstructionRecord
from pcm.service.state import State

_CLOSED = SETTLED - {Stage.FAILED}
REMEMBERED = DONE_WELL | {Stage.RUNNING, Stage.RESTART_PENDING, Stage.FAILED}
"""What is shown although the newest instructions no longer name it."""
_BEGUN = frozenset({Stage.RUNNING, Stage.RESTART_PENDING})


class Asker(NamedTuple):
    """Who asks, as the kernel says. `name` may be empty for a number without a name."""

    user_id: int
    name: str

    @property
    def is_administrator(self) -> bool:
        """Whether it is root."""
        return self.user_id == 0

    def shown(self) -> str:
        """How it is recorded. A number alone could be somebody else's name."""
        return self.name or f"#{self.user_id}"


def may_see(record: InstructionRecord, asker: Asker) -> bool:
    """Whether an instruction concerns this user: what is offered to others only is not shown."""
    allowed = record.instruction.allowed_users
    return asker.is_administrator or allowed is None or (bool(asker.name) and asker.name in allowed)


def find_record(state: State, wanted: str, asker: Asker) -> InstructionRecord:
    """An instruction by its id or its job, if this user may see it.

    Raises:
        RequestError: `not_found`, also for what others may see only.
    """
    for record in Journal(state).records():
        if wanted in (record.id, record.instruction.job) and may_see(record, asker):
            return record
    raise RequestError(
        f"There is no instruction or job {wanted[:64]!r} here for you. `pcmsvc list` shows them.", code="not_found"
    )


def why_not_run(record: InstructionRecord, manifest: Manifest | None, asker: Asker, now: datetime) -> str:
    """Why this user cannot ask for this instruction now; empty if the user can."""
    wanted = record.instruction
    program = None if manifest is None else manifest.programs.get(wanted.program)
    if wanted.purpose != "optional":
        return "it is mandatory: it runs by itself"
    if not record.present or record.state in _CLOSED or record.state in (Stage.RUNNING, Stage.RESTART_PENDING):
        if record.state in (Stage.SUCCEEDED, Stage.ALREADY_INSTALLED):
            return "it is done already"
        done = record.present or record.state in REMEMBERED
        return f"it is {record.state.value.replace('_', ' ')}" if done else "it was withdrawn"
    if record.verdict_code:
        return record.verdict_reason or "it was refused"
    if program is None:
        return "what its packager says about it has not come yet"
    barred = _why_not_for(record, program, asker)
    if barred:
        return barred
    zone = local_zone()
    if now < resolve(wanted.offer_after, wanted.clock, zone):
        return "it is not offered yet"
    if wanted.expires_after is not None and now >= resolve(wanted.expires_after, wanted.clock, zone):
        return "it has expired"
    return ""


def _why_not_for(record: InstructionRecord, program: Program, asker: Asker) -> str:
    if not program.user_requestable and not asker.is_administrator:
        return "its packager has not made it for users to ask for"
    if program.run_as != "system" and asker.is_administrator:
        return "it runs as the user who asks for it, and never as an administrator: that user has to ask"
    return "" if may_see(record, asker) else "it is not offered to you"


def is_asked_for(record: InstructionRecord) -> bool:
    """Whether somebody's request stands: it was made, and nothing has come of it yet."""
    if record.requested_at is None or record.state in _CLOSED:
        return False
    # a failure after the request has answered it; somebody may ask again
    return record.state is not Stage.FAILED or record.changed <= record.requested_at


def why_not_cancel(record: InstructionRecord, asker: Asker) -> str:
    """Why this user cannot take back the request for this; empty if the user can."""
    if record.instruction.purpose != "optional" or not is_asked_for(record):
        return "nobody has asked for it"
    if record.state in _BEGUN:
        return "it has begun, and is seen to its end"
    if not asker.is_administrator and record.requested_by != asker.shown():
        return "somebody else asked for it"
    return ""


def can_defer(record: InstructionRecord, line: Line | None) -> bool:
    """Whether work that comes by itself can be put off now, by whoever may see it."""
    wanted, stage = record.instruction, record.state if line is None else line.state
    return (
        wanted.mandatory_after is not None
        and record.present
        and stage not in SETTLED
        and record.state not in _BEGUN
        and record.deferrals < wanted.deferral.times
    )
