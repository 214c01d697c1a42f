"""Take away what only the run needed: its package directory, and what the machine kept for finding it again.

Step 11 of 12, the last of the runner's steps; it comes also when an earlier one ended the run. The output stays, for whoever
wants to read it, until newer runs push it out. What cannot be removed now is removed at the next start (`service.recovery`).
"""

from pcm.model.errors import MachineError
from pcm.service.journal import Change
from pcm.service.steps.stage import let_go
from pcm.service.work import Context, Work


def leaves_little(work: Work, context: Context) -> bool:
    """Whether cleaning up after a run that has ended surely takes no longer than a moment."""
    return (work.staging is None or work.staging.holds_little()) and (
        work.reference is None or context.machine.forgets_soon(work.reference)
    )


def cleanup(work: Work, context: Context) -> Change | None:
    """Remove what is left of the run, as far as it can be."""
    try:
        if work.reference is not None:
            context.machine.forget(work.reference)
        let_go(work, context)
    except MachineError as error:
        work.detail = {"left": error.message}
    return None
