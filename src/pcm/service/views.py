"""What people at the computer are shown: instructions, reasons, the ledger, the service's own state, as local answers.

Serves step 9 and `pcmsvc list|why|status|ledger`. Made from the same plan that decides what runs, so what is shown is what
happens. It changes nothing. Values of parameters are never shown: they may be secret.
"""

from datetime import datetime
from typing import NamedTuple

from pcm.model.assignment import State as Stage
from pcm.model.errors import RequestError
from pcm.model.program import Program
from pcm.model.schedule import resolve
from pcm.protocol import local
from pcm.protocol.enrolment import ClientConfiguration
from pcm.protocol.manifest import Manifest
from pcm.service import inbox, ledger
from pcm.service.facts import AGENT_VERSION
from pcm.service.history import History
from pcm.service.journal import Journal
from pcm.service.outlook import Outlook, local_zone
from pcm.service.plan import Action, Finding, Line, Plan
from pcm.service.planner_case import DONE_WELL, SETTLED
from pcm.service.records import InstructionRecord, RunRecord
from pcm.service.state import State

_CLOSED = SETTLED - {Stage.FAILED}
_REMEMBERED = DONE_WELL | {Stage.RUNNING, Stage.RESTART_PENDING, Stage.FAILED}
_SHOWN_REFUSALS = 20


class Asker(NamedTuple):
    """Who asks, as the kernel says. `name` may be empty for a number without a name."""

    user_id: int
    name: str

    @property
    def is_administrator(self) -> bool:
        """Whether it is root."""
        return self.user_id == 0

    def shown(self) -> str:
        """How it is recorded."""
        return self.name or str(self.user_id)


def may_see(record: InstructionRecord, asker: Asker) -> bool:
    """Whether an instruction concerns this user: what is offered to others only is not shown."""
    allowed = record.instruction.allowed_users
    return asker.is_administrator or allowed is None or (bool(asker.name) and asker.name in allowed)


def list_items(state: State, outlook: Outlook, asker: Asker, now: datetime) -> local.Items:
    """What is available, what is coming, what was done: in the order of execution, then what is settled."""
    plan = outlook.plan(now)
    records = [record for record in Journal(state).records() if _is_shown(record) and may_see(record, asker)]
    manifests = History(state).manifests(record.manifest_sha256 for record in records)
    place = {line.id: number for number, line in enumerate(plan.lines)}
    records.sort(key=lambda record: (record.state in SETTLED, place.get(record.id, len(place)), record.id))
    return local.Items(
        tuple(_item(state, record, plan, manifests.get(record.manifest_sha256), asker, now) for record in records)
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
    private = asker.is_administrator or (record.requested_by is not None and record.requested_by == asker.name)
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
    lines += [_attempt(run) for run in History(state).runs(record.id, record.generation)]
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
    return local.Why(record.id, record.state.value if line is None else line.state.value, tuple(lines))


def find_record(state: State, wanted: str, asker: Asker) -> InstructionRecord:
    """An instruction by its id or its job, if this user may see it.

    Raises:
        RequestError: `not_found`, also for what others may see only.
    """
    for record in Journal(state).records():
        if wanted in (record.id, record.instruction.job) and may_see(record, asker):
            return record
    raise RequestError(f"There is no instruction or job {wanted[:64]!r} here for you.", code="not_found")


def show_status(state: State, configuration: ClientConfiguration, client_id: str) -> local.Status:
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
        ledger_head=head[0][0] if head else "",
        refusals=tuple(
            local.LastRefusal(each.code, each.at, each.reason, each.source, each.count)
            for each in reversed(state.refusals(limit=_SHOWN_REFUSALS))
        ),
    )


def show_ledger(state: State, newest: int = local.MAX_LEDGER_ENTRIES) -> local.Ledger:
    """The newest entries of the ledger, and whether its whole chain holds."""
    with state.transaction(durable=False) as connection:  # one moment, so that entries and chain belong together
        sealed = ledger.read(connection, newest)
        total, head, broken = ledger.count(connection), ledger.head(connection), ledger.find_break(connection)
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
    return local.Ledger(entries, total, head, broken)


def _to_the_second(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(microsecond=0)


def why_not_run(record: InstructionRecord, manifest: Manifest | None, asker: Asker, now: datetime) -> str:
    """Why this user cannot ask for this instruction now; empty if the user can."""
    wanted = record.instruction
    program = None if manifest is None else manifest.programs.get(wanted.program)
    if wanted.purpose != "optional":
        return "it is mandatory: it runs by itself"
    if not record.present or record.state in _CLOSED or record.state in (Stage.RUNNING, Stage.RESTART_PENDING):
        if record.state in (Stage.SUCCEEDED, Stage.ALREADY_INSTALLED):
            return "it is done already"
        done = record.present or record.state in _REMEMBERED
        return f"it is {record.state.value.replace('_', ' ')}" if done else "it was withdrawn"
    if record.verdict_code:
        return record.verdict_reason or "it was refused"
    if program is None:
        return "what its packager says about it has not come yet"
    barred = _why_not_for(record, program, asker)
    if barred:
        return barred
    zone = local_zone()
    if now < resolve(wanted.offer_after, wanted.clock, zone):
        return "it is not offered yet"
    if wanted.expires_after is not None and now >= resolve(wanted.expires_after, wanted.clock, zone):
        return "it has expired"
    return ""


def _why_not_for(record: InstructionRecord, program: Program, asker: Asker) -> str:
    if not program.user_requestable and not asker.is_administrator:
        return "its packager has not made it for users to ask for"
    if program.run_as == "user" and asker.is_administrator:
        return "it runs as the user who asks for it, and never as an administrator: that user has to ask"
    return "" if may_see(record, asker) else "it is not offered to you"


def _is_shown(record: InstructionRecord) -> bool:
    """What stands in the newest instructions, what is at work, and what was done.

    A site names what is undone only, so what succeeded is soon no longer named: it is not withdrawn, it is history, and
    is shown until `History.prune` forgets it.
    """
    return record.present or record.state in _REMEMBERED


def _item(
    state: State, record: InstructionRecord, plan: Plan, manifest: Manifest | None, asker: Asker, now: datetime
) -> local.Item:
    wanted, line, run, zone = record.instruction, plan.line(record.id), _last_run(state, record), local_zone()
    stage, reason, code, until = _standing(record, line)
    result = None if run is None else run.result
    deadline = None if wanted.mandatory_after is None else resolve(wanted.mandatory_after, wanted.clock, zone)
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
        expires=None if wanted.expires_after is None else resolve(wanted.expires_after, wanted.clock, zone),
        not_before=until,
        requested=record.requested_at,
        requested_by=record.requested_by or "",
        attempts=0 if run is None else run.attempt,
        ended=None if run is None else run.ended,
        exit_code=None if result is None else result.exit_code,
        exit_class="" if result is None else result.exit_class,
        can_run=not why_not_run(record, manifest, asker, now),
        can_defer=deadline is not None
        and record.present
        and stage not in SETTLED
        and stage is not Stage.RUNNING
        and record.deferrals < wanted.deferral.times,
    )


def _standing(record: InstructionRecord, line: Line | None) -> tuple[Stage, str, str, datetime | None]:
    """State, reason, code and time: the planner's of this moment, but for what runs or has just been decided."""
    if line is None or record.state in SETTLED or record.state is Stage.RUNNING:
        return record.state, record.reason, record.code, None
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


def _attempt(run: RunRecord) -> local.WhyLine:
    result = run.result
    if not run.finished or result is None:
        return local.WhyLine(
            "run", f"Run {run.attempt} began at {run.started:%Y-%m-%d %H:%M:%S} UTC and has no end yet."
        )
    code = "nobody saw its exit code" if result.exit_code is None else f"exit code {result.exit_code}"
    ended = "timed out" if result.timed_out else f"{code}, {result.exit_class}"
    found = {None: "", True: ", found done", False: ", not found done"}[result.detected]
    return local.WhyLine(
        "run",
        f"Run {run.attempt} ended at {result.ended:%Y-%m-%d %H:%M:%S} UTC: {ended}{found}.",
        result.exit_class == "success",
    )
