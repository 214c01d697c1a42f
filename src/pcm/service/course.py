"""The course of one run through its steps: each is journalled before and after, and what ends it is told.

Serves steps 8–11: `service.runner` sends what is due along its list of steps, `service.returning` what returns along a shorter
one. It decides nothing: a step that returns a change has ended the run, and then only the last step still comes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pcm.model.assignment import State as Stage
from pcm.model.errors import MachineError, PcmError, Retry
from pcm.service import faults
from pcm.service.journal import Change
from pcm.service.steps.cleanup import leaves_little
from pcm.service.steps.detect import release_after
from pcm.service.verdicts import judge_error
from pcm.service.work import Context, Work

_MOMENTS = frozenset({"check", "fetch", "stage", "consent", "run"})
"""Steps that take no longer than the end of the run before them may wait, or say so themselves."""


def _always(_work: Work) -> bool:
    return True


class Step(NamedTuple):
    """One step: its name in the journal, what it does, and whether it has anything to do at all for this work."""

    name: str
    do: Callable[[Work, Context], Change | None]
    concerns: Callable[[Work], bool] = _always


def follow(steps: Sequence[Step], work: Work, context: Context) -> Change:
    """Take one work through the steps.

    Returns:
        What became of its instruction, as journalled.

    Raises:
        StoreError: this computer cannot record what happens; if the program ran, recovery finds its result.
    """
    ended: Change | None = None
    previous = ""
    for step in steps:
        if (ended is not None and step is not steps[-1]) or not step.concerns(work):
            continue
        if ended is not None and context.handover.waits:
            last = partial(_take_last, step, previous, work, context)
            context.handover.afterwards(last, takes_a_moment=leaves_little(work, context))
            return ended
        if step.name not in _MOMENTS:
            context.handover.settle()
        _pass_on(work, context, previous, step.name)
        previous = step.name
        change = _perform(step, work, context)
        if change is not None and ended is None:
            ended = change
            if work.run is None:
                _end_without_result(work, context, change)
    _pass_on(work, context, previous, "")
    assert ended is not None, "every run ends: the step that looks at its end returns a change"
    return ended


def _take_last(step: Step, previous: str, work: Work, context: Context) -> None:
    """The last step, of a run whose end had to wait."""
    _pass_on(work, context, previous, step.name)
    _perform(step, work, context)
    _pass_on(work, context, step.name, "")


def _pass_on(work: Work, context: Context, ended: str, begins: str) -> None:
    """Journal the end of one step and the beginning of the next, at the latest with what the next one changes."""
    now = context.clock()
    if ended and begins:
        context.history.note_passage(work.run_id, ended, work.detail, begins, now)
    elif ended:
        context.history.note_step(work.run_id, ended, "end", now, work.detail)
    elif begins:
        context.history.note_step(work.run_id, begins, "begin", now)
    work.detail = {}
    if ended:
        faults.reach(work.point(f"{ended}.end"))
    if begins:
        faults.reach(work.point(f"{begins}.begin"))


def _perform(step: Step, work: Work, context: Context) -> Change | None:
    """Do one step; an error becomes the state of this instruction, unless the program has begun: then recovery takes over."""
    try:
        return step.do(work, context)
    except PcmError as error:
        if work.run is not None:
            raise
        work.detail = {"error": error.code}
        return judge_error(work.record, error, context.clock(), returning=work.returning)
    except Exception as error:
        if work.run is not None:
            raise
        text = f"The service made a mistake before it ran ({type(error).__name__}: {error}). Please report it."
        mistake = MachineError(text, code="internal", retry=Retry.NEVER)
        return judge_error(work.record, mistake, context.clock(), returning=work.returning)


def _concerns_one_user(change: Change) -> bool:
    """Whether the next user may fare better: it is about this account, its rights or what it has, not about order or package."""
    return change.state is Stage.ALREADY_INSTALLED or change.code.startswith("machine.")


def _end_without_result(work: Work, context: Context, change: Change) -> None:
    """Store what became of an instruction whose program has not run."""
    context.handover.settle()
    now = context.clock()
    with context.state.transaction():
        current = context.journal.record(work.line.id)
        if work.for_each_user and _concerns_one_user(change):
            context.journal.end_for_user(work.line.id, work.line.run_as, change, now)
        else:
            context.journal.change(work.line.id, change, now)
        release = None if work.returning else release_after(current.instruction, work.manifest, change, context)
        if release is not None:
            context.history.note_release(release)
