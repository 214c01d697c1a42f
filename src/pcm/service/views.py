"""What people at the computer are shown: instructions, reasons, the ledger, the service's own state, as local answers.

Serves step 9 and `pcmsvc list|why|status|ledger`. Made from the same plan that decides what runs, so what is shown is what
happens. It changes nothing. Values of parameters are never shown: they may be secret.
"""

from datetime import datetime

from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.schedule import resolve
from pcm.protocol import local
from pcm.protocol.enrolment import ClientConfiguration
from pcm.protocol.manifest import Manifest
from pcm.service import inbox, ledger, ledger_check
from pcm.service.asking import (
    REMEMBERED,
    Asker,
    can_defer,
    find_record,
    is_asked_for,
    may_see,
    why_not_cancel,
    why_not_run,
)
from pcm.service.content_views import explain_content
from pcm.service.facts import AGENT_VERSION
from pcm.service.history import History
from pcm.service.journal import Journal
from pcm.service.outlook import Outlook, local_zone
from pcm.service.places import Places
from pcm.service.plan import Action, Finding, Line, Plan
from pcm.service.planner_case import DONE_WELL, SETTLED
from pcm.service.records import InstructionRecord, RunRecord
from pcm.service.standing import show_standing, show_transfer
from pcm.service.state import State
from pcm.service.verdicts import CLOSING

_SHOWN_REFUSALS = 20


def list_items(state: State, outlook: Outlook, asker: Asker, places: Places, now: datetime) -> local.Items:
    """What is available, what is coming, what was done: in the order of execution, then what is settled."""
    plan = outlook.plan(now)
    records = [record for record in Journal(state).records() if _is_shown(record) and may_see(record, asker)]
    manifests = History(state).manifests(record.manifest_sha256 for record in records)
    place = {line.id: number for number, line in enumerate(plan.lines)}
    records.sort(key=lambda record: (record.state in SETTLED, place.get(record.id, len(place)), record.id))
    standing = show_standing(state, outlook, now)
    return local.Items(
        tuple(_item(state, record, plan, manifests.get(record.manifest_sha256), asker, now) for record in records),
        replace(standing, transfer=show_transfer(places, records, manifests)),
    )


def show_details(state: State, outlook: Outlook, asker: Asker, wanted: str, now: datetime) -> local.Details:
    """One instruction with its signed program.

    Raises:
        RequestError: `not_found`.
    """
    record = find_record(state, wanted, asker)
    manifest = History(state).manifests([record.manifest_sha256]).get(record.manifest_sha256)
    item = _item(state, record, outlook.plan(now), manifest, asker, now)
    program = None if manifest is None else manifest.programs.get(record.instruction.program)
    run = _last_run(state, record)
    # whoever asked for this very run; a later request of somebody else shows nobody an earlier run's output
    asked = record.requested_at if record.requested_by == asker.shown() else None
    private = asker.is_administrator or (asked is not None and run is not None and asked <= run.started)
    return local.Details(
        item,
        record.instruction.release,
        files=0 if manifest is None else len(manifest.files),
        content_bytes=0 if manifest is None else manifest.content_bytes(),
        command=() if program is None else program.argv,
        run_as="" if program is None else program.run_as,
        timeout_s=0 if program is None else program.timeout_s,
        output_tail=run.result.output_tail if private and run is not None and run.result is not None else "",
    )


def explain(state: State, outlook: Outlook, asker: Asker, wanted: str, now: datetime) -> local.Why:
    """The planner's whole decision trace for one instruction or job, and what was refused lately.

    Raises:
        RequestError: `not_found`.
    """
    record = find_record(state, wanted, asker)
    line = outlook.plan(now, explain=True).line(record.id)
    if line is None:
        lines = [_unplanned(record)]
    elif line.action is Action.DONE:  # what would have to hold for another run says nothing about this one
        lines = [local.WhyLine("target", _outcome(record), record.state in DONE_WELL, record.code)]
    else:
        lines = [_why(finding) for finding in line.trace]
    for run in History(state).runs(record.id, record.generation):
        lines += [*_closed_for(state, run), _attempt(run)]
    manifest = History(state).manifests([record.manifest_sha256]).get(record.manifest_sha256)
    about_content, content = explain_content(state, record, manifest, now)
    lines += about_content
    lines += [
        local.WhyLine(
            "trust" if refusal.code.startswith("trust.") else "source",
            f"{refusal.reason} (from {refusal.source or 'this computer'}, {refusal.count}×, "
            f"first {refusal.at:%Y-%m-%d %H:%M} UTC)",
            holds=False,
            code=refusal.code,
        )
        for refusal in reversed(state.refusals(limit=_SHOWN_REFUSALS))
    ]
    return local.Why(record.id, record.state.value if line is None else line.state.value, tuple(lines), content)


def show_status(
    state: State, configuration: ClientConfiguration, client_id: str, now: datetime, update: local.Update | None = None
) -> local.Status:
    """How the service is."""
    header = inbox.read_header(state)
    waiting = state.rows("SELECT count(*) FROM outbox WHERE acknowledged IS NULL")[0][0]
    running = state.rows("SELECT instruction FROM runs WHERE finished = 0 ORDER BY started LIMIT 1")
    present = state.rows("SELECT count(*) FROM instructions WHERE present = 1")[0][0]
    head = state.rows("SELECT sha256 FROM ledger ORDER BY seq DESC LIMIT 1")
    return local.Status(
        enrolled=True,
        agent_version=AGENT_VERSION,
        site=configuration.site,
        client_id=client_id,
        serial=header.serial if header else 0,
        issued=header.issued if header else None,
        expires=header.expires if header else None,
        last_check=_to_the_second(state.touched(inbox.LAST_CHECK)),
        last_contact=_to_the_second(state.touched(inbox.LAST_CONTACT)),
        logon_server=state.meta(inbox.LAST_SERVER),
        instructions=present,
        running=running[0][0] if running else "",
        unreported=waiting,
        unreported_why=_why_unreported((*(header.servers.logon if header else ()), *configuration.logon)),
        ledger_head=head[0][0] if head else "",
        refusals=tuple(
            local.LastRefusal(each.code, each.at, each.reason, each.source, each.count)
            for each in reversed(state.refusals(limit=_SHOWN_REFUSALS))
        ),
        standing=show_standing(state, None, now),
        update=update,
    )


def _why_unreported(logon: tuple[str, ...]) -> str:
    """Shares are read with an account that may do nothing else; see `outbox.takes_reports`."""
    if not all(server.startswith("smb:") for server in logon):
        return ""
    return "(the logon servers are shares, which take no reports: name an https logon server too)"


def show_ledger(state: State, newest: int = local.MAX_LEDGER_ENTRIES) -> local.Ledger:
    """The newest entries of the ledger, and whether its whole past is what it was and what the site was told."""
    with state.transaction(durable=False) as connection:  # one moment, so that entries and chain belong together
        sealed = ledger.read(connection, newest)
        total, head = ledger.count(connection), ledger.head(connection)
        breaks = ledger_check.verify(state)
    entries = tuple(
        local.LedgerEntry(
            seq=each.seq,
            sha256=each.sha256,
            run=each.entry.run,
            instruction=each.entry.instruction,
            job=each.entry.job,
            generation=each.entry.generation,
            package=each.entry.package,
            version=each.entry.version,
            release=each.entry.release,
            program=each.entry.program,
            argv=each.entry.argv[:1],
            run_as=each.entry.run_as,
            manifest_path=each.entry.manifest_path,
            manifest_sha256=each.entry.manifest_sha256,
            started=each.entry.started,
            ended=each.entry.ended,
            state=each.entry.state,
            exit_code=each.entry.exit_code,
            requested_by=each.entry.requested_by or "",
        )
        for each in sealed
    )
    before, head_before = ledger_check.entries_before(state)
    return local.Ledger(
        entries,
        total,
        head,
        broken_at=breaks[0].first if breaks else None,
        breaks=tuple(local.LedgerBreak(*each) for each in breaks),
        before=before,
        head_before=head_before,
    )


def _to_the_second(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(microsecond=0)


def _is_shown(record: InstructionRecord) -> bool:
    """What stands in the newest instructions, what is at work, and what was done.

    A site names what is undone only, so what succeeded is soon no longer named: it is not withdrawn, it is history, and
    is shown until `History.prune` forgets it.
    """
    return record.present or record.state in REMEMBERED


def _item(
    state: State, record: InstructionRecord, plan: Plan, manifest: Manifest | None, asker: Asker, now: datetime
) -> local.Item:
    wanted, line, run, zone = record.instruction, plan.line(record.id), _last_run(state, record), local_zone()
    stage, reason, code, until = _standing(record, line)
    result = None if run is None else run.result
    program = None if manifest is None else manifest.programs.get(wanted.program)
    deadline, expires = (
        None if moment is None else resolve(moment, wanted.clock, zone)
        for moment in (wanted.mandatory_after, wanted.expires_after)
    )
    if line is not None:  # of a recurring order, those of its present time
        deadline, expires = line.deadline or deadline, line.expires or expires
    going_on = run is not None and not run.finished
    return local.Item(
        id=record.id,
        job=wanted.job,
        package=wanted.package,
        version=wanted.version,
        program=wanted.program,
        purpose=wanted.purpose,
        state=stage.value,
        reason=reason,
        code=code,
        summary="" if manifest is None else manifest.summary,
        publisher="" if manifest is None else manifest.publisher,
        changed=record.changed,
        offered=resolve(wanted.offer_after, wanted.clock, zone),
        deadline=deadline,
        expires=expires,
        not_before=until,
        requested=record.requested_at,
        requested_by=record.requested_by or "",
        attempts=0 if run is None else run.attempt,
        ended=None if run is None else run.ended,
        exit_code=None if result is None else result.exit_code,
        exit_class="" if result is None else result.exit_class,
        can_run=not why_not_run(record, manifest, asker, now) and not is_asked_for(record),
        can_defer=can_defer(record, line),
        can_cancel=not why_not_cancel(record, asker),
        announced=None if line is None else line.announced,
        started=run.started if run is not None and going_on else None,
        step=_step(state, run) if run is not None and going_on else "",
        estimated_s=0 if program is None else program.estimated_s or 0,
        next_at=None if line is None else line.next_occurrence,
    )


def _step(state: State, run: RunRecord) -> str:
    found = state.rows("SELECT step FROM steps WHERE run = ? ORDER BY seq DESC LIMIT 1", (run.run,))
    return str(found[0][0]) if found else ""


def _standing(record: InstructionRecord, line: Line | None) -> tuple[Stage, str, str, datetime | None]:
    """State, reason, code and time: the planner's of this moment, but for what runs or has just been decided."""
    if line is None or record.state in SETTLED or record.state is Stage.RUNNING or record.code == CLOSING:
        return record.state, record.reason, record.code, None
    later = record.deferred_until
    if line.code == "wait.deadline" and later is not None and (line.until is None or line.until < later):
        # the first reason is that its time has not come; to whoever put it off, the second one is the news
        return Stage.DEFERRED, f"It was postponed until {later:%Y-%m-%d %H:%M} UTC.", "wait.deferred", later
    return line.state, line.reason, line.code, line.until


def _last_run(state: State, record: InstructionRecord) -> RunRecord | None:
    runs = History(state).runs(record.id, record.generation)
    return runs[-1] if runs else None


def _why(finding: Finding) -> local.WhyLine:
    return local.WhyLine(finding.topic, finding.text, finding.holds, finding.code, finding.until)


def _unplanned(record: InstructionRecord) -> local.WhyLine:
    if record.present:
        text = "What its packager says about it has not come yet: no distribution server has answered with it."
        return local.WhyLine("source", text, holds=False, code="wait.source")
    return local.WhyLine("target", _outcome(record), record.state in DONE_WELL, record.code)


def _outcome(record: InstructionRecord) -> str:
    return f"It is {record.state.value.replace('_', ' ')}. {record.reason}".strip()


def _closed_for(state: State, run: RunRecord) -> list[local.WhyLine]:
    """What was in the way of a run, and was closed."""
    details = [step.detail for step in History(state).steps(run.run) if step.step == "close_blocking"]
    closed = ", ".join(name for detail in details for name in detail.get("closed", ()))
    beside = ", ".join(name for detail in details if detail.get("forced") for name in detail.get("left", ()))
    text = f"Before run {run.attempt}, what was in its way was closed: {closed}."
    if beside:
        text += f" It came back each time; the run was overdue, and went on beside it: {beside}."
    return [local.WhyLine("run", text, holds=not beside, code="blocking.forced" if beside else "")] if closed else []


def _attempt(run: RunRecord) -> local.WhyLine:
    result = run.result
    if not run.finished or result is None:
        return local.WhyLine(
            "run", f"Run {run.attempt} began at {run.started:%Y-%m-%d %H:%M:%S} UTC and has no end yet."
        )
    code = "nobody saw its exit code" if result.exit_code is None else f"exit code {result.exit_code}"
    ended = "timed out" if result.timed_out else f"{code}, {result.exit_class}"
    found = {None: "", True: ", found done", False: ", not found done"}[result.detected]
    well = {None: "", True: ", works well", False: ", works badly"}[result.healthy]
    return local.WhyLine(
        "run",
        f"Run {run.attempt} ({run.program}) ended at {result.ended:%Y-%m-%d %H:%M:%S} UTC: {ended}{found}{well}.",
        result.exit_class == "success" and result.healthy is not False,
    )
