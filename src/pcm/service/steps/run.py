"""Start the program and own its whole process tree until nothing of it is left.

Step 10 of 12, after `steps/consent`, before `steps/detect`. Its start is on the disk before it happens (KB Q158644, Q164887,
Q175652), so whatever kills this process later, nobody starts it a second time without knowing. It judges nothing: how it
ended is data.
"""

from pathlib import Path

from pcm.model.errors import MachineError
from pcm.model.program import Limits, build_argv
from pcm.service import faults
from pcm.service.journal import Change
from pcm.service.machine.commands import resolve_program
from pcm.service.machine.interface import Launch, TreeLimits
from pcm.service.meanwhile import heard_meanwhile
from pcm.service.records import RunRecord
from pcm.service.steps.check import check_still_allowed
from pcm.service.verdicts import judge_error
from pcm.service.work import Context, Work


def run(work: Work, context: Context) -> Change | None:
    """Run the program to its end.

    Raises:
        TrustError: something changed since it was staged or checked. MachineError: it cannot be started.
        StoreError: its start could not be recorded, so it was not started.
    """
    launch = build_launch(work, context)
    work.reference = context.machine.reference_of(launch)
    assert work.staging is not None, "a run without a package directory"
    work.staging.verify(work.manifest.files)
    faults.reach(work.point("run.before_started"))
    with context.state.transaction():
        context.handover.store()
        # check 13: immediately before. What returns to the last good version was allowed with the order that it undoes
        over = None if work.returning else check_still_allowed(work, context)
        present = context.journal.record(work.line.id)
        if over is None and not work.returning:
            over = heard_meanwhile(context.state, work.record, context.clock(), present)
        record = _record(work, context, launch)
        if over is None:
            context.history.begin_run(record, present)
    work.run = record if over is None else None
    context.handover.stored()
    if over is not None:
        return over
    faults.reach(work.point("run.started"))
    try:
        running = context.machine.start(launch, work.reference)
    except MachineError as error:
        now = context.clock()
        change = judge_error(work.record, error, now, returning=work.returning)
        context.history.forget_run(record, change, now, for_user=work.for_each_user)
        work.run = None
        return change
    context.history.note_launched(record.run)
    faults.reach(work.point("run.launched"))
    context.handover.tidy()
    work.ended = running.wait()
    faults.reach(work.point("run.ended"))
    work.detail = {"exit_code": work.ended.exit_code, "survivors": work.ended.survivors_killed}
    return None


def build_launch(work: Work, context: Context) -> Launch:
    """Put the launch together: argument list, folder, environment, limits; never a shell string (KB Q166245).

    Raises:
        RequestError: parameters do not fit. MachineError: there is no such program in the package or the search path.
    """
    assert work.staging is not None, "a run without a package directory"
    package = work.staging.path
    wanted = work.instruction
    name, *arguments = build_argv(work.program, work.manifest.parameters, wanted.parameters)
    # the package directory, unless the program says otherwise (KB Q138245)
    folder = package / (work.program.working_directory or "")
    return Launch(
        run_id=work.run_id,
        argv=(str(resolve_program(name, package)), *arguments),
        working_directory=Path(folder),
        output_path=context.runs / work.run_id / "output",
        timeout_s=work.program.timeout_s,
        run_as=work.line.run_as,
        on_screen=work.program.interaction == "allowed",
        environment=work.program.environment,
        limits=_limits(work.program.limits),
        context={
            "PCM_JOB": wanted.job,
            "PCM_PACKAGE": wanted.package,
            "PCM_VERSION": wanted.version,
            "PCM_PROGRAM": work.program_name,
            "PCM_PACKAGE_DIRECTORY": str(package),
        },
    )


def _limits(signed: Limits | None) -> TreeLimits:
    if signed is None:
        return TreeLimits()
    return TreeLimits(signed.memory_bytes, signed.cpu_percent, signed.processes)


def _record(work: Work, context: Context, launch: Launch) -> RunRecord:
    assert work.reference is not None, "a run without a reference"
    return RunRecord(
        run=work.run_id,
        instruction=work.line.id,
        generation=work.record.generation,
        attempt=context.history.next_attempt(work.line.id, work.record.generation),
        program=work.program_name,
        manifest_sha256=work.record.manifest_sha256,
        argv=launch.argv,
        run_as=launch.run_as,
        started=context.clock(),
        reference=dict(work.reference.to_json()),
        boot_id=work.reference.boot_id,
        occurrence=work.record.occurrence,
    )
