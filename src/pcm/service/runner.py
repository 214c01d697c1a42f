"""The runner: takes due lines of the plan, one at a time, through one visible list of steps.

Steps 8–11 of 12: after `service.planner`, before `service.outbox`. Each step is journalled before and after, so whatever
kills this process, `service.recovery` knows how far it came. A failing program is data; an error of ours becomes the state of
that one instruction (KB Q168130), and only what this computer cannot record at all stops the rest. It never decides what is
due.
"""

import secrets
from collections.abc import Callable, Collection

from pcm.model.assignment import State as Stage
from pcm.model.errors import PcmError
from pcm.service import faults
from pcm.service.journal import Change
from pcm.service.plan import Line, Plan, Situation
from pcm.service.planner import plan
from pcm.service.records import InstructionRecord
from pcm.service.recovery import sweep
from pcm.service.steps.check import check
from pcm.service.steps.cleanup import cleanup
from pcm.service.steps.consent import consent
from pcm.service.steps.detect import detect, release_after
from pcm.service.steps.fetch import fetch
from pcm.service.steps.run import run
from pcm.service.steps.stage import stage
from pcm.service.verdicts import judge_error
from pcm.service.work import Context, Work

Step = Callable[[Work, Context], Change | None]

STEPS: tuple[tuple[str, Step], ...] = (
    ("check", check),  # may it still run, is it not done already
    ("fetch", fetch),  # what is missing comes
    ("stage", stage),  # the package directory
    ("consent", consent),  # the user is told
    ("run", run),  # the program and its whole tree
    ("detect", detect),  # one atomic result
    ("cleanup", cleanup),  # always
)
"""A step that returns a change has ended the run; only the last one still comes then."""


Look = Callable[[Collection[InstructionRecord]], Situation]
"""Gives the situation of this moment, for these instructions."""


def drain(context: Context, look: Look) -> Plan:
    """Plan and run until nothing is due, then bring content early for what waits. One instruction never runs twice in one drain.

    Args:
        look: Asked before each plan.

    Returns:
        The last plan, adopted by the journal.

    Raises:
        StoreError: this computer cannot record what happens.
    """
    sweep(context)  # what a worker left that died before its program began
    records = {record.id: record for record in context.journal.records()}
    tried: set[str] = set()
    while True:
        now = context.clock()
        current = plan(records.values(), look(records.values()), now)
        if context.journal.adopt(current, now):
            records = {record.id: record for record in context.journal.records()}
        faults.reach("plan.adopted")
        line = next((each for each in current.due() if each.id not in tried), None)
        if line is None:
            line = next((each for each in current.to_fetch() if each.id not in tried), None)
            if line is None:
                return current
            fetch_early(line, context)
        else:
            run_one(line, context)
        tried.add(line.id)
        records[line.id] = context.journal.record(line.id)


def run_one(line: Line, context: Context) -> Change:
    """Take one due line through the steps.

    Returns:
        What became of the instruction, as journalled.

    Raises:
        StoreError: this computer cannot record what happens; if the program ran, recovery finds its result.
    """
    work = _begin(line, context)
    if work is None:
        text = "Its signed manifest is not here any more."
        refused = Change(state=Stage.REFUSED, code="trust.unsigned_program", reason=text)
        context.journal.change(line.id, refused, context.clock())
        return refused
    ended: Change | None = None
    previous = ""
    for name, step in STEPS:
        if ended is not None and step is not cleanup:
            continue
        _pass_on(work, context, previous, name)
        previous = name
        change = _perform(step, work, context)
        if change is not None and ended is None:
            ended = change
            if step is not detect:
                _end_without_result(work, context, change)
    _pass_on(work, context, previous, "")
    assert ended is not None, "every run ends: detect always returns a change"
    return ended


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
        context.bring(work.manifest.files, work.manifest.content_bytes() + work.program.disk_bytes)
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


def _begin(line: Line, context: Context) -> Work | None:
    manifest = context.history.manifests([line.record.manifest_sha256]).get(line.record.manifest_sha256)
    program = None if manifest is None else manifest.programs.get(line.instruction.program)
    if manifest is None or program is None:
        return None
    return Work(line=line, run_id=secrets.token_hex(16), manifest=manifest, program=program)


def _pass_on(work: Work, context: Context, ended: str, begins: str) -> None:
    """Journal the end of one step and the beginning of the next together."""
    now = context.clock()
    with context.state.transaction(durable=False):
        if ended:
            context.history.note_step(work.run_id, ended, "end", now, dict(work.detail))
        if begins:
            context.history.note_step(work.run_id, begins, "begin", now)
    work.detail = {}
    if ended:
        faults.reach(f"{ended}.end")
    if begins:
        faults.reach(f"{begins}.begin")


def _perform(step: Step, work: Work, context: Context) -> Change | None:
    """Do one step; an error becomes the state of this instruction, unless the program has begun: then recovery takes over."""
    try:
        return step(work, context)
    except PcmError as error:
        if work.run is not None:
            raise
        work.detail = {"error": error.code}
        return judge_error(work.record, error, context.clock())
    except Exception as error:
        if work.run is not None:
            raise
        text = f"The service made a mistake before it ran ({type(error).__name__}: {error}). Please report it."
        return Change(state=Stage.FAILED, code="internal", reason=text)


def _end_without_result(work: Work, context: Context, change: Change) -> None:
    """Store what became of an instruction whose program has not run."""
    now = context.clock()
    with context.state.transaction():
        current = context.journal.record(work.line.id)
        context.journal.change(work.line.id, change, now)
        release = release_after(current.instruction, work.manifest, change, context)
        if release is not None:
            context.history.note_release(release)
