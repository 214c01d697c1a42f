"""Look whether it worked, and store one atomic result: exit code, class, detection and output together (KB Q138241, Q190135).

Step 11 of 12, after `steps/run`, before `steps/health`. Recovery comes here too, for runs whose worker died. The transaction
that ends the run also moves the instruction, queues the outcome, and adds the ledger's entry: all of it, or none and the run
is found again.
"""

from collections.abc import Callable

from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.errors import MachineError
from pcm.model.instruction import Instruction
from pcm.model.program import EACH_USER, ExitClass, ExitCodes, Program
from pcm.protocol.manifest import Manifest
from pcm.protocol.report import MAX_TAIL, RunResult
from pcm.service import faults
from pcm.service.content_records import reported_ways
from pcm.service.journal import Change
from pcm.service.machine.interface import SYSTEM, Ended
from pcm.service.planner_case import removes
from pcm.service.records import InstalledRelease, InstructionRecord, LedgerEntry, RunRecord
from pcm.service.verdicts import (
    UNHEALTHY,
    Detected,
    has_worked,
    judge_end,
    judge_for_user,
    judge_mark,
    judge_return,
    judge_unseen,
)
from pcm.service.work import Context, Judged, Work

_HERE = frozenset({Stage.SUCCEEDED, Stage.RESTART_PENDING, Stage.ALREADY_INSTALLED})


def detect(work: Work, context: Context) -> Change | None:
    """Find out how the run went, and end it, unless its health is still to be looked at."""
    assert work.run is not None, "a result without a run"
    assert work.ended is not None, "a result without an end"
    judged = judge(work.run, work.record, work.manifest, work.ended, context)
    if wants_health(judged):
        work.judged = judged
        return None
    if work.followed and judged.change.state is Stage.SUCCEEDED:
        context.handover.leave(_end_of(judged, context), lambda: faults.reach("result.committed"))
        return judged.change
    return store(judged, context)


def judge(
    run: RunRecord, record: InstructionRecord, manifest: Manifest | None, ended: Ended | None, context: Context
) -> Judged:
    """Judge the end of a run; nothing is stored.

    Args:
        record: The instruction as it was planned (for its attempts and purpose).
        manifest: None if it is not here any more; then detection cannot be asked.
        ended: None: nobody saw it end, and nothing of it is left.
    """
    program = None if manifest is None else manifest.programs.get(run.program)
    looked = look(program, context, run.run_as)
    result = make_result(run, program, ended, looked, context)
    if ended is None or _is_unseen(ended):
        why = "The service stopped while it ran, and nobody saw it end."
        verdict = judge_unseen(result, looked, why)
    else:
        runs = context.history.tries(run) if result.exit_class == ExitClass.RETRY.value else 1
        verdict = judge_end(record, result, looked, runs, context.machine.boot_id(), ended.ended_by)
        if verdict.state is Stage.SUCCEEDED and _marked(run, record, context):
            verdict = judge_mark(verdict, context.machine.boot_id())
    if program is not None and program.run_as != SYSTEM:
        verdict = judge_for_user(verdict)
    return with_verdict(Judged(run, record, manifest, verdict, verdict), verdict)


def _marked(run: RunRecord, record: InstructionRecord, context: Context) -> bool:
    """Whether the job forces restarts, and the system wrote its own mark for one during this run.

    An older mark says nothing about this program (KB Q153227); and where nobody forces it, only the program's own word counts.
    """
    forced = record.instruction.restart_policy == "force" and run.run_as == SYSTEM
    return forced and context.machine.restart_marked(run.started)


def with_verdict(judged: Judged, verdict: Change) -> Judged:
    """The same end with another verdict: what it means for the instruction follows from it."""
    change = judge_return(judged.record, judged.run.program, verdict) if returns(judged.run, judged.record) else verdict
    return judged._replace(verdict=verdict, change=change)


def returns(run: RunRecord, record: InstructionRecord) -> bool:
    """Whether a run is the return to the last good version: it is of another program than the one that was ordered."""
    return run.program != record.instruction.program


def wants_health(judged: Judged) -> bool:
    """Whether a program has worked, and says how to see that it works well. After a restart, that is looked at then."""
    program = None if judged.manifest is None else judged.manifest.programs.get(judged.run.program)
    return program is not None and program.health is not None and judged.verdict.state is Stage.SUCCEEDED


def store(judged: Judged, context: Context) -> Change:
    """End a run: result, state, outcome, ledger entry and what is installed now are one transaction."""
    _end_of(judged, context)()
    faults.reach("return.result.committed" if returns(judged.run, judged.record) else "result.committed")
    return judged.change


def _end_of(judged: Judged, context: Context) -> Callable[[], None]:
    """What stores the end of a run, with everything that belongs to it as it is at this moment."""
    run, record, change = judged.run, judged.record, judged.change
    assert change.result is not None, "the end of a run without a result"
    entry = make_entry(run, record.instruction, change.result, judged.verdict)
    release = None if judged.manifest is None else release_of(judged, context)
    now, one_users = context.clock(), _is_one_users(judged)
    faults.reach("return.result.before_commit" if returns(run, record) else "result.before_commit")
    return lambda: context.history.end_run(run, change, entry, release, now, for_user=one_users)


def _is_one_users(judged: Judged) -> bool:
    """Whether this is one user's part of a program that runs once for each."""
    program = None if judged.manifest is None else judged.manifest.programs.get(judged.run.program)
    return program is not None and program.run_as == EACH_USER


def _is_unseen(ended: Ended) -> bool:
    return ended.exit_code is None and ended.signal is None and not ended.timed_out and not ended.ended_by


def look(program: Program | None, context: Context, run_as: str = SYSTEM) -> Detected:
    """Ask a program's detection; its own commands run as the program did."""
    if program is None:
        return Detected.CANNOT_TELL
    if program.detect is None:
        return Detected.NOT_ASKED
    try:
        return Detected.YES if context.holds(program.detect, run_as) else Detected.NO
    except MachineError:
        return Detected.CANNOT_TELL


def make_result(
    run: RunRecord, program: Program | None, ended: Ended | None, looked: Detected, context: Context
) -> RunResult:
    """Put one result together. A run that took too long, or whose end nobody saw, has no exit code."""
    codes = ExitCodes() if program is None else program.exit_codes
    code = None if ended is None or ended.timed_out else ended.exit_code
    exit_class = codes.classify(code) if code is not None else ExitClass.FAILED
    return RunResult(
        run=run.run,
        started=run.started,
        ended=context.clock(),
        exit_code=code,
        exit_class=exit_class.value,
        timed_out=ended is not None and ended.timed_out,
        detected={Detected.YES: True, Detected.NO: False}.get(looked),
        output_tail="" if ended is None else ended.output_tail.decode("utf-8", "replace")[-MAX_TAIL:],
        output_bytes=0 if ended is None else ended.output_bytes,
        run_as="" if run.run_as == SYSTEM else run.run_as[:256],
        content=reported_ways(context.state, run.manifest_sha256),
    )


def make_entry(run: RunRecord, instruction: Instruction, result: RunResult, change: Change) -> LedgerEntry:
    """What the ledger keeps of a run for ever."""
    return LedgerEntry(
        run=run.run,
        instruction=run.instruction,
        job=instruction.job,
        generation=run.generation,
        package=instruction.package,
        version=instruction.version,
        release=instruction.release,
        program=run.program,
        argv=run.argv,
        run_as=run.run_as,
        manifest_path=instruction.manifest.path,
        manifest_sha256=run.manifest_sha256,
        started=run.started,
        ended=result.ended,
        exit_code=result.exit_code,
        # of a run that worked badly, and is returned from, the instruction is still at work
        state=(Stage.FAILED if change.state is Stage.RUNNING else change.state).value,
    )


def release_of(judged: Judged, context: Context) -> InstalledRelease | None:
    """What is known to be here after a run, if that changes.

    While a return is still to come nothing is noted, so that after it the last good version stands there as before, and its
    floor. Where there is no return, or it failed, what is unhealthy is here all the same, if detection says so.
    """
    assert judged.manifest is not None, "a release without a manifest"
    instruction, manifest, change = judged.record.instruction, judged.manifest, judged.change
    if not returns(judged.run, judged.record):
        return release_after(instruction, manifest, change, context)
    if has_worked(judged.verdict):
        return None
    ordered = manifest.programs.get(instruction.program)
    if look(ordered, context) in {Detected.YES, Detected.NOT_ASKED}:
        return _release(instruction, manifest, context)
    known = context.state.release(instruction.package)
    return None if known is None else replace(known, installed=None, changed=context.clock())


def release_after(
    instruction: Instruction, manifest: Manifest, change: Change, context: Context
) -> InstalledRelease | None:
    """What is installed now, if this change says so."""
    program = manifest.programs.get(instruction.program)
    healthy = program is None or program.health is None
    if change.state is Stage.RESTART_PENDING and not healthy:
        return None  # its health is looked at after the restart
    if change.state in _HERE or (change.state is Stage.FAILED and change.code == UNHEALTHY):
        return _release(instruction, manifest, context)
    return None


def _release(instruction: Instruction, manifest: Manifest, context: Context) -> InstalledRelease:
    return InstalledRelease(
        package=instruction.package,
        release=manifest.release,
        min_release=manifest.min_release,
        version=manifest.version,
        installed=None if removes(instruction.program) else manifest.release,
        changed=context.clock(),
    )
