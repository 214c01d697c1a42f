"""What people said since the plan was made: 'not after all', 'later', 'nothing now'. Heard in the transaction that begins a run.

Step 10, under `steps/run`, which comes minutes after the plan if much had to be brought. So of somebody who takes a request back,
puts work off, or pauses this client, and a program that is about to begin, exactly one comes first, and both are told the
same. It decides by what is recorded, and asks nobody.
"""

from datetime import datetime

from pcm.model.assignment import State as Stage
from pcm.service.journal import Change, Journal
from pcm.service.pausing import CODE, read_pause
from pcm.service.records import InstructionRecord
from pcm.service.state import State


def heard_meanwhile(
    state: State, planned: InstructionRecord, now: datetime, present: InstructionRecord | None = None
) -> Change | None:
    """What becomes of an instruction that may not begin any more; None: nobody has said anything against it.

    Args:
        planned: Its record when the plan was made.
        present: Its record now, where the caller has just read it, inside the same transaction.
    """
    record = present or Journal(state).record(planned.id)

    def wait(code: str, reason: str, stage: Stage = Stage.WAITING) -> Change:
        return Change(state=stage, code=code, reason=reason, not_before=record.not_before, attempts=record.attempts)

    if planned.requested_at is not None and record.requested_at is None:
        return wait("wait.request", "It is not asked for any more.")
    if planned.requested_by != record.requested_by:  # else it would run as whoever took it back
        return wait("wait.request", f"{record.requested_by} asks for it now.")
    until = record.deferred_until
    if record.deferrals > planned.deferrals and until is not None and now < until:
        return wait("wait.deferred", f"It was postponed until {until:%Y-%m-%d %H:%M} UTC.", Stage.DEFERRED)
    pause = read_pause(state, now)
    return None if pause is None else wait(CODE, pause.reason())
