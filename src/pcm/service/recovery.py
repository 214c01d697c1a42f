"""What the last worker left open is brought to an end, before anything new is decided.

Serves steps 10–11 after a kill, a crash, a power cut or a restart: `service.worker` calls `reconcile` right after it has
opened the state, before `service.inbox` asks for anything. A run that began is never begun again by itself (KB Q158644,
Q164887, Q175652): its processes are waited for within their time limit, its kept result is taken, and where nobody saw the
end, detection decides. So every run reaches an end, reported once (KB Q193784). It starts nothing but detection commands.
"""

import contextlib
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from pcm.content.parts import Parts
from pcm.model.assignment import State as Stage
from pcm.model.errors import MachineError, StoreError
from pcm.service import faults
from pcm.service.content_records import held_manifests, read_policy
from pcm.service.journal import Change
from pcm.service.machine.interface import SYSTEM, RunningProgram, RunReference
from pcm.service.records import InstructionRecord, RunRecord, to_text
from pcm.service.returning import return_to_last_good, waiting_returns
from pcm.service.steps.detect import judge, look, release_after, returns, store, wants_health
from pcm.service.steps.health import check_health, settle
from pcm.service.verdicts import judge_health, judge_restart
from pcm.service.work import Context

KEPT_RUNS = 100
"""Output folders that stay for people to read, newest first."""
KEPT_BYTES = 2 * 1024**3
"""Of package files that nobody orders any more, of what is installed: the next version has most of them too."""
KEPT_FOR = timedelta(days=90)
PRUNED = "pruned"


def reconcile(context: Context) -> list[str]:
    """Bring every open run and every finished restart to its end, and remove what runs have left behind.

    Returns:
        The instructions that it changed, by id.

    Raises:
        StoreError: this computer cannot record what happened.
    """
    changed = [_end(run, context) for run in context.history.open_runs()]
    changed += [record.id for record in context.journal.records() if _end_restart(record, context)]
    for record in waiting_returns(context):
        faults.reach("recovery.returns")
        return_to_last_good(record.id, context)
        changed.append(record.id)
    sweep(context)
    return changed


def _end(run: RunRecord, context: Context) -> str:
    faults.reach("recovery.found")
    reference = _reference(run)
    running, is_there = (None, False) if reference is None else _find(reference, context)
    record = context.journal.record(run.instruction)
    if reference is not None and not is_there and _never_started(run, reference, context):
        text = "The service stopped just before it started; nothing of it has run."
        change = Change(state=Stage.WAITING, code="run.not_started", reason=text)
        if returns(run, record):  # it is still to come
            change = Change(state=Stage.RUNNING, code=record.code, reason=record.reason, attempts=record.attempts)
        context.history.forget_run(run, change, context.clock())
        return run.instruction
    # its time limit counts from its start, so this ends
    ended = None if running is None else running.wait()
    faults.reach("recovery.ended")
    manifest = context.history.manifests([run.manifest_sha256]).get(run.manifest_sha256)
    judged = judge(run, record, manifest, ended, context)
    store(settle(judged, context) if wants_health(judged) else judged, context)
    faults.reach("recovery.committed")
    if reference is not None:
        with contextlib.suppress(MachineError):  # something is mounted in its temporary folder: it is over all the same
            context.machine.forget(reference)
    return run.instruction


def _reference(run: RunRecord) -> RunReference | None:
    try:
        return RunReference.from_json(run.reference)
    except MachineError:
        return None  # a damaged row: nothing can be found by it


def _find(reference: RunReference, context: Context) -> tuple[RunningProgram | None, bool]:
    """Find a run again, and tell whether there is anything of it: a program may have removed the folder to follow it by."""
    try:
        running = context.machine.find_again(reference)
    except MachineError as error:
        if error.code != "machine.run_folder":
            raise
        return None, True
    return running, running is not None


def _never_started(run: RunRecord, reference: RunReference, context: Context) -> bool:
    """Tell whether the machine never came to start the run: it makes the output file before anything else.

    After a restart of the computer a missing file proves nothing, because a power cut may have taken it; nor does it after a
    start that was noted, because an installer may have removed the folder.
    """
    if "launched" in run.reference or reference.boot_id != context.machine.boot_id():
        return False
    return not Path(reference.output_path).exists()


def _end_restart(record: InstructionRecord, context: Context) -> bool:
    """End what waited for a restart, if the computer has restarted since (another boot id; KB Q164329, Q153227)."""
    if record.state is not Stage.RESTART_PENDING or record.restart_boot_id == context.machine.boot_id():
        return False
    manifest = context.history.manifests([record.manifest_sha256]).get(record.manifest_sha256)
    program = None if manifest is None else manifest.programs.get(record.instruction.program)
    runs = context.history.runs(record.id, record.generation)
    run_as = runs[-1].run_as if runs else SYSTEM
    change = judge_restart(look(program, context, run_as))
    if program is not None and program.health is not None and change.state is Stage.SUCCEEDED:
        complaint, _ = check_health(program, context, run_as)
        change = judge_health(change, complaint, program.rollback_to) if complaint else change
    release = None if manifest is None else release_after(record.instruction, manifest, change, context)
    with context.state.transaction():
        context.journal.change(record.id, change, context.clock())
        if release is not None:
            context.history.note_release(release)
    faults.reach("recovery.restarted")
    return True


def sweep(context: Context) -> None:
    """Remove package directories that no run uses any more, old outputs, and once a day old records and package files."""
    for left in _names(context.staging):
        try:
            context.machine.remove_staged(context.staging, left)
        except MachineError:
            continue  # something is mounted or busy there; tried again at the next start
    newest = sorted(_names(context.runs), key=lambda name: (context.runs / name).stat().st_mtime, reverse=True)
    for name in newest[KEPT_RUNS:]:
        # as carefully as a package directory: a program may have mounted something below its folder for temporary files
        with contextlib.suppress(MachineError):
            context.machine.remove_staged(context.runs, name)
    now = context.clock()
    if not to_text(now - timedelta(days=1)) <= context.state.meta(PRUNED) <= to_text(now):
        context.history.prune(now - KEPT_FOR)
        _collect(context)
        context.state.set_meta(PRUNED, to_text(now), durable=False)


def _collect(context: Context) -> None:
    """Remove package files that nothing here refers to any more (KB Q227032)."""
    records = context.journal.records()
    ordered = [each for each in records if each.present or each.state in {Stage.RUNNING, Stage.RESTART_PENDING}]
    installed = [each for each in records if each.state in {Stage.SUCCEEDED, Stage.ALREADY_INSTALLED}]
    wanted = _contents(ordered, context)
    budget = read_policy(context.state).store_bytes or KEPT_BYTES
    held = _files_of(held_manifests(context.state), context)  # what the next version's patches start from
    with contextlib.suppress(StoreError):  # tried again tomorrow; it is only space
        context.store.collect(wanted | _contents(installed, context) | held, 0)
        context.store.collect(wanted, budget)
        Parts(context.store.root).sweep(budget)


def _contents(records: Iterable[InstructionRecord], context: Context) -> set[str]:
    """The files of their packages, by SHA-256."""
    return _files_of((each.manifest_sha256 for each in records), context)


def _files_of(wanted: Iterable[str], context: Context) -> set[str]:
    manifests = context.history.manifests(wanted)
    return {file.sha256 for manifest in manifests.values() for file in manifest.files}


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
