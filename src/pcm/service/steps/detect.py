"""Look whether it worked, and store one atomic result: exit code, class, detection and output together (KB Q138241, Q190135).

Step 11 of 12, after `steps/run`, before `steps/cleanup`. Recovery comes here too, for runs whose worker died. The transaction
that ends the run also moves the instruction, queues the outcome, and adds the ledger's entry: all of it, or none and the run
is found again.
"""

from pcm.model.assignment import State as Stage
from pcm.model.errors import MachineError
from pcm.model.instruction import Instruction
from pcm.model.program import ExitClass, ExitCodes, Program
from pcm.protocol.manifest import Manifest
from pcm.protocol.report import MAX_TAIL, RunResult
from pcm.service import faults
from pcm.service.journal import Change
from pcm.service.machine.interface import Ended
from pcm.service.planner_case import removes
from pcm.service.records import InstalledRelease, InstructionRecord, LedgerEntry, RunRecord
from pcm.service.verdicts import Detected, judge_end, judge_unseen
from pcm.service.work import Context, Work

_HERE = frozenset({Stage.SUCCEEDED, Stage.RESTART_PENDING, Stage.ALREADY_INSTALLED})


def detect(work: Work, context: Context) -> Change | None:
    """Find out how the run went, and end it."""
    assert work.run is not None, "a result without a run"
    assert work.ended is not None, "a result without an end"
    return end_run(work.run, work.record, work.manifest, work.ended, context)


def end_run(
    run: RunRecord, record: InstructionRecord, manifest: Manifest | None, ended: Ended | None, context: Context
) -> Change:
    """Judge and store the end of a run.

    Args:
        record: The instruction as it was planned (for its attempts and purpose).
        manifest: None if it is not here any more; then detection cannot be asked.
        ended: None: nobody saw it end, and nothing of it is left.
    """
    program = None if manifest is None else manifest.programs.get(run.program)
    looked = look(program, context)
    now = context.clock()
    result = make_result(run, program, ended, looked, context)
    if ended is None or (ended.exit_code is None and ended.signal is None and not ended.timed_out):
        why = "The service stopped while it ran, and nobody saw it end."
        change = judge_unseen(result, looked, why)
    else:
        runs = context.history.tries(run)
        change = judge_end(record, result, looked, runs, context.machine.boot_id())
    entry = make_entry(run, record.instruction, result, change)
    release = None if manifest is None else release_after(record.instruction, manifest, change, context)
    faults.reach("result.before_commit")
    context.history.end_run(run, change, entry, release, now)
    faults.reach("result.committed")
    return change


def look(program: Program | None, context: Context) -> Detected:
    """Ask a program's detection."""
    if program is None:
        return Detected.CANNOT_TELL
    if program.detect is None:
        return Detected.NOT_ASKED
    try:
        return Detected.YES if context.holds(program.detect) else Detected.NO
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
        state=change.state.value,
    )


def release_after(
    instruction: Instruction, manifest: Manifest, change: Change, context: Context
) -> InstalledRelease | None:
    """What is installed now, if this change says so."""
    if change.state not in _HERE:
        return None
    return InstalledRelease(
        package=instruction.package,
        release=manifest.release,
        min_release=manifest.min_release,
        version=manifest.version,
        installed=None if removes(instruction.program) else manifest.release,
        changed=context.clock(),
    )
