"""After a program has worked: does what it installed work well? Asked for a bounded time, then its run ends.

Step 11 of 12, after `steps/detect`, before `steps/rollback`; only for programs that are signed with a health check. Until its
answer is known the run stays open, so whatever kills this process, recovery asks again. What cannot be told does not hold:
unknown is never success (KB Q190135).
"""

import time

from msgspec.structs import replace

from pcm.model.errors import MachineError
from pcm.model.program import Program
from pcm.service.journal import Change
from pcm.service.machine.interface import SYSTEM
from pcm.service.steps.detect import returns, store, with_verdict
from pcm.service.verdicts import judge_health
from pcm.service.work import Context, Judged, Work

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0


def health(work: Work, context: Context) -> Change | None:
    """Look whether it works well, and end the run; None if the return to the last good version is to come."""
    assert work.judged is not None, "health before detection"
    judged = settle(work.judged, context, work.detail)
    change = store(judged, context)
    work.unhealthy = is_to_return(judged)
    return None if work.unhealthy else change


def settle(judged: Judged, context: Context, detail: dict[str, object] | None = None) -> Judged:
    """Give a run that has worked the verdict that its health check makes of it.

    Args:
        detail: Takes what is to be journalled.
    """
    assert judged.manifest is not None, "health without a manifest"
    program = judged.manifest.programs[judged.run.program]
    complaint, tries = check_health(program, context, judged.run.run_as)
    if detail is not None:
        detail |= {"healthy": not complaint, "tries": tries}
    assert judged.verdict.result is not None, "health without a result"
    result = replace(judged.verdict.result, healthy=not complaint)
    verdict = replace(judged.verdict, result=result)
    if complaint:
        back = None if returns(judged.run, judged.record) else program.rollback_to
        verdict = judge_health(verdict, complaint, back)
    return with_verdict(judged, verdict)


def is_to_return(judged: Judged) -> bool:
    """Whether an unhealthy program is signed with a way back, which is to be gone now."""
    assert judged.manifest is not None, "health without a manifest"
    result = judged.change.result
    unhealthy = result is not None and result.healthy is False
    program = judged.manifest.programs[judged.run.program]
    return unhealthy and program.rollback_to is not None and not returns(judged.run, judged.record)


def check_health(program: Program, context: Context, run_as: str = SYSTEM) -> tuple[str, int]:
    """Look again and again until it holds or the program's time for it is over; its own commands run as the program did.

    Returns:
        What is wrong (empty: nothing), and how often it was looked.
    """
    assert program.health is not None, "a health check without one"
    end_s = time.monotonic() + program.health_within_s
    pause_s, tries = _FIRST_PAUSE_S, 0
    while True:
        tries += 1
        try:
            found = context.look(program.health, run_as)
            complaint = "" if found.found else found.detail
        except MachineError as error:
            complaint = error.message.rstrip(".")
        left_s = end_s - time.monotonic()
        if not complaint or left_s <= 0:
            return complaint[:400], tries
        context.turn_to_what_takes_long()
        context.pause(min(pause_s, left_s))
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
