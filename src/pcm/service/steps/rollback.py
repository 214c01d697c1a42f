"""What works badly is undone: the signed program that returns to the last good version runs, as a run of its own.

Step 11 of 12, after `steps/health`, before `steps/cleanup`; only if the health check did not hold. That the return is to come
was stored with the end of the unhealthy run, so `service.recovery` finds it if this process dies here.
"""

from pcm.service.journal import Change
from pcm.service.returning import return_to_last_good
from pcm.service.work import Context, Work


def rollback(work: Work, context: Context) -> Change | None:
    """Return, and say what became of the instruction."""
    change = return_to_last_good(work.line.id, context)
    work.detail = {"to": work.program.rollback_to, "state": change.state.value}
    return change
