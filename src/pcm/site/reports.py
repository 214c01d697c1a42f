"""One status report: is it the next one, and what does it change?

Step 12 of 12: `intake` has verified the client's signature and holds the transaction. A report is accepted if its
number is the next and its chain fits; the same again is acknowledged again; another one under a number that was
used, or with another past, means that the client exists twice (a clone, a restored snapshot) and quarantines it.
States move only as the table allows: a late or doubled report never overwrites the truth (KB Q152229, Q150026,
Q166833); what does not fit is kept as a note. Times are the site's own (KB Q172899).
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, delete, insert, select, update

from pcm.model.assignment import State, can_move
from pcm.protocol.report import Outcome, Refusal, Report, RunResult
from pcm.site import client_ledgers, job_life
from pcm.site import clients as client_rows
from pcm.site.db.tables import AnyRow, assignments, clients, refusals, reports, results
from pcm.site.db.tables import jobs as job_rows
from pcm.site.enrolment import clean, facts_columns

# of one client, so that none fills the disk: whole reports, results, refusals
KEPT_WHOLE, MOST_RESULTS, MOST_REFUSALS = 100, 2000, 2000


class Received(NamedTuple):
    """A report whose signature holds. `report` None: its payload cannot be read beyond its number and chain."""

    client_id: str
    seq: int
    prev_sha256: str | None
    payload_sha256: str
    envelope: bytes
    report: Report | None


class Verdict(NamedTuple):
    """What came of it. `code` empty: accepted or known already. `acknowledged`: the newest number the site has."""

    acknowledged: int
    code: str = ""
    reason: str = ""


def receive(connection: Connection, client: AnyRow, received: Received, *, dropped: bool, now: datetime) -> Verdict:
    """Take one report in, in the caller's transaction, which has locked the client's row.

    Args:
        client: Its row: id, client_id, serial, last_seq, last_report_sha256, `ledger_*`.
        dropped: It came as a file, so its acknowledgement must go by the instruction file.
    """
    if client.last_seq and client.last_report_sha256 is None:
        pass  # quarantine was lifted: the chain begins anew with this report
    elif received.seq <= client.last_seq:
        return _repeated(connection, client, received, now)
    elif client.last_report_sha256 == client_rows.RESUMED:
        pass  # an administrator has accepted that the ones before are missing
    elif received.seq > client.last_seq + 1:
        _note(connection, client.id, client_rows.GAP, f"number {received.seq} came after {client.last_seq}", now)
        return Verdict(
            client.last_seq, client_rows.GAP, f"report {client.last_seq + 1} is missing before {received.seq}"
        )
    elif received.prev_sha256 != client.last_report_sha256:
        return _fork(connection, client, received, now)
    values: dict[str, Any] = {
        "last_seq": received.seq,
        "last_report_sha256": received.payload_sha256,
        "last_seen": now,
    }
    if dropped:
        values |= {"dropped_seq": received.seq, "dirty": True}
    if received.report is not None:
        values |= _apply(connection, client, received.report, now)
    connection.execute(update(clients).where(clients.c.id == client.id).values(**values))
    connection.execute(
        insert(reports).values(
            client=client.id,
            seq=received.seq,
            payload_sha256=received.payload_sha256,
            envelope=received.envelope,
            received=now,
        )
    )
    # of older ones the hash is enough to know them again; a client that floods shall not fill the disk
    connection.execute(
        update(reports)
        .where(reports.c.client == client.id, reports.c.seq == received.seq - KEPT_WHOLE)
        .values(envelope=b"")
    )
    return Verdict(received.seq)


def _repeated(connection: Connection, client: AnyRow, received: Received, now: datetime) -> Verdict:
    known = set(
        connection.execute(
            select(reports.c.payload_sha256).where(reports.c.client == client.id, reports.c.seq == received.seq)
        ).scalars()
    )
    if received.seq == client.last_seq and client.last_report_sha256:
        known = {client.last_report_sha256}
    # nothing known: so old that it is no longer kept, and changes nothing
    if not known or received.payload_sha256 in known:
        return Verdict(client.last_seq)
    return _fork(connection, client, received, now)


def _fork(connection: Connection, client: AnyRow, received: Received, now: datetime) -> Verdict:
    why = f"report {received.seq} has another past than the one that the site knows: the client exists twice, or was restored"
    client_rows.quarantine(connection, client.id, client.client_id, why, now)
    _note(connection, client.id, "report.fork", why, now)
    return Verdict(client.last_seq, "report.fork", why)


def _apply(connection: Connection, client: AnyRow, report: Report, now: datetime) -> dict[str, Any]:
    """Write what the report says; the client's own new columns."""
    _keep_refusals(connection, client.id, report.refusals, now)
    if report.outcomes:
        jobs = sorted({outcome.job for outcome in report.outcomes})
        rows = connection.execute(
            select(assignments, job_rows.c.recurrence)
            .join(job_rows, job_rows.c.id == assignments.c.job)
            .where(assignments.c.client == client.id, assignments.c.job.in_(jobs))
            .with_for_update(of=assignments)
        )
        standing = {row.job: _Standing(row) for row in rows}
        for outcome in report.outcomes:
            _take_outcome(connection, client.id, standing.get(outcome.job), outcome, now)
        for each in standing.values():
            each.save(connection, now)
    job_life.confirm_silent(connection, client.id, report.serial, now)
    values: dict[str, Any] = {"stands_on": report.serial}
    if report.serial > client.serial:
        # signed here and forgotten since: the database was restored. The next file must bear a higher number.
        values |= {"serial": report.serial, "content_sha256": None, "dirty": True}
    resumed = client.last_report_sha256 == client_rows.RESUMED
    values |= client_ledgers.take_in(connection, client, report, now, resumed=resumed)
    if report.facts is not None:
        values |= facts_columns(report.facts)
    return values


class _Standing:
    """One assignment while a report's outcomes pass over it."""

    def __init__(self, row: AnyRow) -> None:
        self.id = row.id
        self.generation = row.generation
        self.state = State(row.state)
        self.cancelling = row.cancelling
        self.recurs = row.recurrence is not None
        self.occurrence: datetime | None = row.occurrence
        self.values: dict[str, Any] = {}

    def is_over(self, occurrence: datetime | None) -> bool:
        """Whether this is about a time of a recurring job that a later one has followed already."""
        return self.recurs and occurrence is not None and self.occurrence is not None and occurrence < self.occurrence

    def follow(self, occurrence: datetime | None) -> State:
        """Begin anew if this is about a later time of a recurring job: what became of the one before ends nothing now.

        Returns:
            Where it stands now.
        """
        if self.recurs and occurrence is not None and (self.occurrence is None or occurrence > self.occurrence):
            self.occurrence = occurrence
            self.values["occurrence"] = occurrence
            self.state = State.OFFERED
        return self.state

    def move(self, outcome: Outcome) -> None:
        """Follow one legal outcome."""
        state = outcome.state
        if state is State.WITHDRAWN and self.cancelling and can_move(self.state, State.CANCELLED):
            state = State.CANCELLED  # the client has confirmed (KB Q191338)
        self.values |= {"state": state.value, "code": clean(outcome.code), "reason": clean(outcome.reason)}
        if state in {State.CANCELLED, State.WITHDRAWN, State.SUCCEEDED, State.EXPIRED}:
            self.values["cancelling"] = self.cancelling = False
        self.state = state

    def save(self, connection: Connection, now: datetime) -> None:
        """Write the last state, once."""
        if self.values:
            connection.execute(
                update(assignments).where(assignments.c.id == self.id).values(changed=now, **self.values)
            )


def _take_outcome(
    connection: Connection, client: int, standing: _Standing | None, outcome: Outcome, now: datetime
) -> None:
    if outcome.result is not None:
        _keep_result(connection, client, outcome, outcome.result, now)
    if outcome.state is State.REFUSED:
        said = Refusal(outcome.code or "refused", outcome.at, outcome.reason, outcome.instruction)
        _keep_refusals(connection, client, (said,), now, job=outcome.job)
    if standing is None:
        _note(connection, client, "report.unknown_assignment", f"an outcome for job {outcome.job}", now, outcome.job)
    elif outcome.generation != standing.generation:
        _note(
            connection,
            client,
            "report.other_generation",
            f"{outcome.state.value} for generation {outcome.generation}; the job is at {standing.generation}",
            now,
            outcome.job,
        )
    elif standing.is_over(outcome.occurrence):
        _note(
            connection,
            client,
            "report.other_occurrence",
            f"{outcome.state.value} for {outcome.occurrence:%Y-%m-%d %H:%M}; the client has begun a later time of the job",
            now,
            outcome.job,
        )
    elif not can_move(standing.follow(outcome.occurrence), outcome.state):
        _note(
            connection,
            client,
            "report.illegal_move",
            f"{standing.state.value} cannot become {outcome.state.value}; it stays {standing.state.value}",
            now,
            outcome.job,
        )
    else:
        standing.move(outcome)


def _keep_result(connection: Connection, client: int, outcome: Outcome, result: RunResult, now: datetime) -> None:
    known = connection.execute(
        select(results.c.id).where(results.c.client == client, results.c.run == result.run)
    ).first()
    if known is not None:
        return
    _keep_newest(connection, results, client, MOST_RESULTS)
    connection.execute(
        insert(results).values(
            run=result.run,
            client=client,
            job=clean(outcome.job),
            generation=outcome.generation,
            started=result.started.astimezone(UTC),
            ended=result.ended.astimezone(UTC),
            received=now,
            exit_code=result.exit_code,
            exit_class=clean(result.exit_class),
            timed_out=result.timed_out,
            detected=result.detected,
            output_tail=clean(result.output_tail),
            output_bytes=result.output_bytes,
            run_as=clean(result.run_as),
        )
    )


def _keep_refusals(
    connection: Connection, client: int, said: Sequence[Refusal], now: datetime, *, job: str | None = None
) -> None:
    if said:
        _keep_newest(connection, refusals, client, MOST_REFUSALS)
        connection.execute(
            insert(refusals),
            [
                {
                    "client": client,
                    "job": None if job is None else clean(job),
                    "code": clean(refusal.code),
                    "at": refusal.at.astimezone(UTC),
                    "received": now,
                    "reason": clean(refusal.reason),
                    "source": clean(refusal.source),
                    "times": refusal.count,
                }
                for refusal in said
            ],
        )


def _note(connection: Connection, client: int, code: str, reason: str, now: datetime, job: str | None = None) -> None:
    """Something that the site itself did not take: shown beside the client's own refusals; the same again is counted."""
    last = connection.execute(
        select(refusals).where(refusals.c.client == client).order_by(refusals.c.id.desc()).limit(1)
    ).first()
    if last is not None and (last.code, last.reason, last.source, last.job) == (code, reason, "site", job):
        connection.execute(
            update(refusals).where(refusals.c.id == last.id).values(times=refusals.c.times + 1, received=now)
        )
        return
    _keep_refusals(connection, client, (Refusal(code, now, reason, "site"),), now, job=job)


def _keep_newest(connection: Connection, table: Table, client: int, most: int) -> None:
    """Make room: one client has so many rows in a table and no more."""
    oldest = (
        select(table.c.id).where(table.c.client == client).order_by(table.c.id.desc()).offset(most - 1).limit(1)
    ).scalar_subquery()
    connection.execute(delete(table).where(table.c.client == client, table.c.id <= oldest))


def digest(payload: bytes) -> str:
    """How a report is named in the chain."""
    return hashlib.sha256(payload).hexdigest()
