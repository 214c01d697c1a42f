"""The runner: takes due lines of the plan, one at a time, through one visible list of steps.

Steps 8–11 of 12: after `service.planner`, before `service.outbox`. `service.course` takes each line along the list and journals
every step before and after, so whatever kills this process, `service.recovery` knows how far it came. A failing program is data;
an error of ours becomes the state of that one instruction (KB Q168130), and only what this computer cannot record at all stops
the rest. It never decides what is due.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.errors import MachineError, PcmError
from pcm.model.program import EACH_USER
from pcm.protocol.manifest import Manifest
from pcm.service import faults
from pcm.service.batch import is_fresh, is_plain, stands
from pcm.service.course import Step, follow
from pcm.service.journal import Change
from pcm.service.plan import Line, Plan, Situation
from pcm.service.planner import plan
from pcm.service.records import InstructionRecord
from pcm.service.recovery import sweep
from pcm.service.steps.check import check
from pcm.service.steps.cleanup import cleanup
from pcm.service.steps.close_blocking import close_blocking
from pcm.service.steps.consent import consent
from pcm.service.steps.detect import detect
from pcm.service.steps.fetch import fetch
from pcm.service.steps.health import health
from pcm.service.steps.rollback import rollback
from pcm.service.steps.run import run
from pcm.service.steps.stage import stage
from pcm.service.verdicts import judge_error
from pcm.service.work import Context, Work, new_run_id

STEPS: tuple[Step, ...] = (
    Step("check", check),  # may it still run, is it not done already
    Step("fetch", fetch),  # what is missing comes
    Step("stage", stage),  # the package directory
    Step("consent", consent),  # the user is told
    Step("close_blocking", close_blocking, lambda work: bool(work.program.blocking_processes)),
    Step("run", run),  # the program and its whole tree
    Step("detect", detect),  # did it work: one atomic result
    Step("health", health, lambda work: work.judged is not None),  # does it work well
    Step("rollback", rollback, lambda work: work.unhealthy),  # back to the last good version
    Step("cleanup", cleanup),  # always
)
"""Those with a condition are passed over, and not journalled, where it does not hold. A step that returns a change has ended the
run; only the last one still comes then."""


Look = Callable[[Collection[InstructionRecord]], Situation]
"""Gives the situation of this moment, for these instructions."""


def drain(context: Context, look: Look, stopping: Callable[[], bool] = lambda: False) -> Plan:
    """Plan and run until nothing is due, then bring content early for what waits.

    One instruction never runs twice in one drain, but once for each user if its program is signed so.

    Args:
        look: Asked before each plan.
        stopping: Whether to plan anew before the next program, however good the plan is (`look` then ends the drain).

    Returns:
        The last plan, adopted by the journal.

    Raises:
        StoreError: this computer cannot record what happens.
    """
    try:
        return _drain(context, look, stopping)
    finally:
        with contextlib.suppress(MachineError):  # then the next start removes it
            context.machine.remove_spare(context.staging)


def _drain(context: Context, look: Look, stopping: Callable[[], bool]) -> Plan:
    sweep(context)  # what a worker left that died before its program began
    others, records = context.state.changed_by_others(), _read(context)
    tried: set[tuple[str, str]] = set()  # and as whom
    while True:
        if context.state.changed_by_others() != others:  # somebody asked, put off, paused
            others, records = context.state.changed_by_others(), _read(context)
        now = context.clock()
        situation = look(records.values())
        current = plan(records.values(), situation, now)
        if context.journal.adopt(current, now):
            records = _read(context)
        faults.reach("plan.adopted")
        due = [each for each in current.due() if (each.id, each.run_as) not in tried]
        if due:
            # in the plan's order; but what has run for one of many users lets everything else go before the next of them
            had = {name for name, _ in tried}
            due.sort(key=lambda each: each.id in had)
            reach = _Reach(now, others, stopping, situation.manifests)
            done = _run_some(due if stands(current, situation) else due[:1], context, reach)
        else:
            early = next((each for each in current.to_fetch() if (each.id, each.run_as) not in tried), None)
            if early is None:
                context.state.write_notes()
                return current
            done = [early]
            fetch_early(early, context)
        tried |= {(line.id, line.run_as) for line in done}
        if len(done) > 1:
            records = _read(context)
        else:
            records[done[0].id] = context.journal.record(done[0].id)


def _read(context: Context) -> dict[str, InstructionRecord]:
    return {record.id: record for record in context.journal.records()}


class _Reach(NamedTuple):
    """When a plan was made, what others had changed until then, who may end it, and the manifests that it was made with."""

    planned: datetime
    others: int
    stopping: Callable[[], bool]
    manifests: Mapping[str, Manifest]


def _run_some(due: Sequence[Line], context: Context, reach: _Reach) -> Sequence[Line]:
    """Run lines of one plan, in order, for as long as it surely is what a new one would be; those that were run."""
    try:
        for number, line in enumerate(due, start=1):
            change = run_one(line, context, reach.manifests, followed=number < len(due))
            if number == len(due) or not is_plain(change) or reach.stopping():
                return due[:number]
            if not is_fresh(reach.planned, context.clock()) or context.state.changed_by_others() != reach.others:
                return due[:number]
    finally:
        context.handover.settle()
    return due


def run_one(
    line: Line, context: Context, manifests: Mapping[str, Manifest] | None = None, *, followed: bool = False
) -> Change:
    """Take one due line through the steps.

    Args:
        manifests: Those that it was planned with, if they are at hand.
        followed: Another line comes right after this one: its end may be stored with the beginning of that one (`handover`).

    Returns:
        What became of the instruction, as journalled (or about to be).

    Raises:
        StoreError: this computer cannot record what happens; if the program ran, recovery finds its result.
    """
    work = _begin(line, context, manifests)
    if work is None:
        text = "Its signed manifest is not here any more."
        refused = Change(state=Stage.REFUSED, code="trust.unsigned_program", reason=text)
        context.handover.settle()
        context.journal.change(line.id, refused, context.clock())
        return refused
    work.followed = followed
    return follow(STEPS, work, context)


def fetch_early(line: Line, context: Context) -> None:
    """Bring content while its instruction still waits. A failure only means that it is tried again, later.

    Raises:
        StoreError: this computer cannot record what happens.
    """
    work = _begin(line, context)
    if work is None:
        return
    change: Change | None = None
    try:
        context.bring(work.needed(early=True))
        context.journal.mark_fetched(line.id)
    except PcmError as error:
        change = judge_error(work.record, error, context.clock())
    if change is not None:
        # it keeps waiting for what it waited for; only the next try is put off
        kept = Change(
            state=line.state,
            code=line.code,
            reason=line.reason,
            not_before=change.not_before,
            attempts=change.attempts,
        )
        context.journal.change(line.id, kept, context.clock())


def _begin(line: Line, context: Context, manifests: Mapping[str, Manifest] | None = None) -> Work | None:
    wanted = line.record.manifest_sha256
    manifest = (context.history.manifests([wanted]) if manifests is None else manifests).get(wanted)
    program = None if manifest is None else manifest.programs.get(line.instruction.program)
    if manifest is None or program is None:
        return None
    if program.run_as == EACH_USER:
        for so_far in context.journal.user_runs().get(line.id, ()):
            if so_far.user == line.run_as:  # a back-off grows with this user's tries, not with everybody's
                line = replace(line, record=replace(line.record, attempts=so_far.attempts))
    return Work(line=line, run_id=new_run_id(), manifest=manifest, program=program)
