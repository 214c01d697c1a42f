"""Programs that are in the way are asked to end, and ended if they do not, where the order says so; else they are waited for.

Step 9 of 12, after `steps/consent`, before `steps/run`; only for programs that are signed with names of what they cannot run
beside. The planner has seen them already (`wait.blocking`): what is found here has started since, or is to be closed. Which they
are, and until when they may end by themselves, is the instruction's state while this step goes on (`asked`), so that the
application can show it. Nothing but the signed names is ever closed, and only the very processes that were found.

Whoever starts a program of such a name again each time gains time, and no more: once mandatory work is overdue, its people's
budget included, it is closed a few times more, and then the work goes on beside it, and says so (`blocking.forced`).
"""

from collections.abc import Sequence
from datetime import timedelta

from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.service import faults
from pcm.service.journal import Change
from pcm.service.machine.interface import Standing
from pcm.service.records import to_text
from pcm.service.verdicts import CLOSING, back_off
from pcm.service.work import Context, Work

NAME = "close_blocking"
FORCED = "blocking.forced"
DEFAULT_GRACE_S = 60
LONGEST_GRACE_S = 600
_ROUNDS = 3  # some come back, under a new number; then it is better to wait than to fight
MOST_FIGHTS = 3
"""So often it waits on for what comes back each time, although it is overdue."""


def close_blocking(work: Work, context: Context) -> Change | None:
    """See to it that nothing is in the way, or wait on."""
    names = work.program.blocking_processes
    found = context.machine.processes_named(names)
    if found and work.instruction.blocking_policy == "wait":
        work.detail = {"left": _shown(found)}
        return _wait_on(found)
    grace_s = min(work.instruction.notify.countdown_s or DEFAULT_GRACE_S, LONGEST_GRACE_S)
    closed: list[str] = []
    killed: list[str] = []
    for _ in range(_ROUNDS):
        if not found:
            break
        _tell(work, context, found, grace_s)
        faults.reach("close_blocking.asked")
        killed += _shown(context.machine.close_processes(found, grace_s))
        closed += _shown(found)
        found = context.machine.processes_named(names)
    work.detail = {"closed": closed, "killed": killed, "left": _shown(found)}
    if not found:
        return None
    if _waits_no_longer(work, context):
        work.detail["forced"] = True
        _tell_forced(work, context, found)
        return None
    return replace(
        _wait_on(found, " It started again each time it was closed."),
        code="blocking.comes_back",
        not_before=back_off(work.record, context.clock()),
        attempts=work.record.attempts + 1,
    )


def _tell(work: Work, context: Context, found: Sequence[Standing], grace_s: float) -> None:
    now = context.clock()
    end = now + timedelta(seconds=grace_s)
    detail = {
        "asked": [{"name": each.name, "process": each.process_id, "user": each.user_id} for each in found],
        "until": to_text(end),
    }
    change = Change(
        state=Stage.ASKED,
        code=CLOSING,
        reason=f"{_names(found)} is in its way and was asked to end; it is ended at {end:%Y-%m-%d %H:%M:%S} UTC.",
        not_before=work.record.not_before,
        attempts=work.record.attempts,
    )
    with context.state.transaction(durable=False):
        context.history.note_step(work.run_id, NAME, "begin", now, detail)
        context.journal.change(work.line.id, change, now, durable=False)


def _waits_no_longer(work: Work, context: Context) -> bool:
    """Whether what comes back has had all the time that the order gives anybody. What a user merely asked for has no such end."""
    deadline = work.line.deadline
    if deadline is None or work.record.attempts + 1 < MOST_FIGHTS:
        return False
    return context.clock() >= deadline + timedelta(seconds=work.instruction.deferral.max_s)


def _tell_forced(work: Work, context: Context, found: Sequence[Standing]) -> None:
    now = context.clock()
    change = Change(
        state=Stage.ASKED,
        code=FORCED,
        reason=f"{_names(found)} started again each time it was closed. It is overdue, and goes on beside it.",
        not_before=work.record.not_before,
        attempts=work.record.attempts,
    )
    context.journal.change(work.line.id, change, now)


def _wait_on(found: Sequence[Standing], why: str = "") -> Change:
    return Change(state=Stage.WAITING, code="wait.blocking", reason=f"It waits until {_names(found)} has ended.{why}")


def _names(found: Sequence[Standing]) -> str:
    return ", ".join(sorted({each.name for each in found}))


def _shown(found: Sequence[Standing]) -> list[str]:
    return [f"{each.name} ({each.process_id})" for each in found]
