"""Tell the user, as the job's policy says. No user interface can block mandatory work (KB Q160853).

Step 9 of 12, after `steps/stage`, before `steps/run`. What was postponed has been judged by the planner; what is here now
runs. The policy is journalled, so that the application can show what starts and why, and `pcmsvc why` can say that nobody was
waited for.
"""

from pcm.service.journal import Change
from pcm.service.work import Context, Work


def consent(work: Work, _context: Context) -> Change | None:
    """Record the policy under which the program starts without waiting for anybody."""
    notify = work.instruction.notify
    work.detail = {
        "purpose": work.instruction.purpose,
        "requested_by": work.record.requested_by,
        "show": notify.show,
        "countdown_s": notify.countdown_s,
        "deferrals": work.record.deferrals,
    }
    return None
