"""The return to the last good version: the program that a packager signed for it, as a run of its own with its own record.

Serves step 11, called by `steps/rollback`, and by `service.recovery` where a kill or a power cut came in between. It goes along a
list of steps as every run does, but asks for no window, approval or expiry: the order has run, and what it has done is
undone under the same packager's signature. It never runs twice: it begins only while its instruction is at work and unhealthy,
and none of its runs is open, and its end is what ends the instruction.
"""

from pcm.model.assignment import State as Stage
from pcm.model.errors import MachineError, Retry
from pcm.service.course import Step, follow
from pcm.service.journal import Change
from pcm.service.plan import Action, Line
from pcm.service.records import InstructionRecord
from pcm.service.steps.cleanup import cleanup
from pcm.service.steps.detect import detect
from pcm.service.steps.fetch import fetch
from pcm.service.steps.health import health
from pcm.service.steps.run import run
from pcm.service.steps.stage import stage
from pcm.service.verdicts import UNHEALTHY, judge_error
from pcm.service.work import Context, Work, new_run_id

STEPS: tuple[Step, ...] = (
    Step("fetch", fetch),  # the same files once more: the first program may have changed its package directory
    Step("stage", stage),
    Step("run", run),
    Step("detect", detect),
    Step("health", health, lambda work: work.judged is not None),
    Step("cleanup", cleanup),
)


def waiting_returns(context: Context) -> list[InstructionRecord]:
    """Instructions whose return is to come and may be tried now. Call when no run is open."""
    now = context.clock()
    return [
        record
        for record in context.journal.records()
        if record.state is Stage.RUNNING
        and record.code == UNHEALTHY
        and (record.not_before is None or record.not_before <= now)
    ]


def return_to_last_good(instruction_id: str, context: Context) -> Change:
    """Run the signed program that returns.

    Returns:
        What became of the instruction, as journalled.

    Raises:
        StoreError: this computer cannot record what happens; recovery goes on.
    """
    record = context.journal.record(instruction_id)
    manifest = context.history.manifests([record.manifest_sha256]).get(record.manifest_sha256)
    ordered = None if manifest is None else manifest.programs.get(record.instruction.program)
    name = "" if ordered is None else ordered.rollback_to or ""
    program = None if manifest is None else manifest.programs.get(name)
    unhealthy = [each for each in context.history.runs(record.id, record.generation) if each.finished]
    if manifest is None or program is None or not unhealthy:
        lost = MachineError("what its packager signed is not here any more.", code="internal", retry=Retry.NEVER)
        change = judge_error(record, lost, context.clock(), returning=name or "rollback_to")
        context.journal.change(record.id, change, context.clock())
        return change
    line = Line(
        record=record,
        action=Action.RUN,
        state=record.state,
        code=record.code,
        reason=record.reason,
        run_as="system" if program.run_as == "system" else unhealthy[-1].run_as,
    )
    work = Work(line=line, run_id=new_run_id(), manifest=manifest, program=program, returning=name)
    return follow(STEPS, work, context)
