"""Jobs as people see them: where each assignment stands, what ran, what was refused.

Serves steps 3 and 12. Reads only. An assignment that is being cancelled shows `cancelling` until its client has
confirmed (KB Q191338).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, func, select

from pcm.model.errors import RequestError
from pcm.model.job import JobOrder
from pcm.protocol import codec
from pcm.protocol.admin import AssignmentView, JobState, Page, RefusalView, ResultView
from pcm.protocol.admin_jobs import JobDetail, JobView
from pcm.site import approvals
from pcm.site.db.tables import AnyRow, assignments, clients, jobs, refusals, results
from pcm.site.db.tables_packages import package_versions
from pcm.site.pages import Slice, moment_cursor, page

SHOWN = 100
CANCELLING = "cancelling"
_MAX_ORDER = 4 * 2**20
# nothing more is expected of these, though a failure may yet be tried again
_SETTLED = frozenset(
    {"succeeded", "failed", "not_applicable", "already_installed", "refused", "expired", "withdrawn", "cancelled"}
)


def list_jobs(connection: Connection, part: Slice) -> Page[JobView]:
    """Jobs, newest first."""
    query = _jobs().order_by(jobs.c.created.desc(), jobs.c.id.desc()).limit(part.limit + 1)
    after = part.moment_and_id()
    if after is not None:
        created, name = after
        query = query.where((jobs.c.created < created) | ((jobs.c.created == created) & (jobs.c.id < name)))
    rows = connection.execute(query).all()
    views = {view.id: view for view in _views(connection, rows[: part.limit])}
    return page(rows, part, lambda row: views[row.id], lambda row: moment_cursor(row.created, row.id))


def show_job(connection: Connection, job: str) -> JobView:
    """One job. Raises RequestError `not_found`."""
    row = connection.execute(_jobs().where(jobs.c.id == job[:40])).first()
    if row is None:
        raise RequestError(f"There is no job {job[:40]!r}. `pcm job list` shows what there is.", code="not_found")
    return _views(connection, [row])[0]


def show_detail(connection: Connection, job: str, part: Slice) -> JobDetail:
    """One job with a page of its assignments; the first page brings results and refusals too. Raises RequestError `not_found`."""
    view = show_job(connection, job)
    query = assignment_rows().where(assignments.c.job == job).order_by(assignments.c.id).limit(part.limit + 1)
    after = part.number()
    if after is not None:
        query = query.where(assignments.c.id > after)
    listed = page(connection.execute(query).all(), part, assignment_view, lambda row: str(row.id))
    if part.cursor is not None:
        return JobDetail(view, listed, (), ())
    ran = connection.execute(
        select(results, clients.c.client_id, clients.c.host_name)
        .join(clients, clients.c.id == results.c.client)
        .where(results.c.job == job)
        .order_by(results.c.id.desc())
        .limit(SHOWN)
    ).all()
    refused = connection.execute(
        refusal_rows().where(refusals.c.job == job).order_by(refusals.c.id.desc()).limit(SHOWN)
    ).all()
    return JobDetail(view, listed, tuple(map(result_view, ran)), tuple(map(refusal_view, refused)))


def assignment_rows() -> Select[*tuple[Any, ...]]:
    """Assignments with what is shown of their jobs and clients; to be narrowed down."""
    return (
        select(
            assignments,
            jobs.c.package,
            jobs.c.program,
            package_versions.c.version,
            clients.c.client_id,
            clients.c.host_name,
        )
        .join(jobs, jobs.c.id == assignments.c.job)
        .join(package_versions, package_versions.c.id == jobs.c.package_version)
        .join(clients, clients.c.id == assignments.c.client)
    )


def refusal_rows() -> Select[*tuple[Any, ...]]:
    """Refusals with their clients; to be narrowed down."""
    return select(refusals, clients.c.client_id, clients.c.host_name).join(clients, clients.c.id == refusals.c.client)


def assignment_view(row: AnyRow) -> AssignmentView:
    """An assignment as the API shows it."""
    return AssignmentView(
        job=row.job,
        client_id=row.client_id,
        host_name=row.host_name,
        instruction=f"{row.job}.{row.client_id[:12]}",
        generation=row.generation,
        package=row.package,
        version=row.version,
        program=row.program,
        state=CANCELLING if row.cancelling else row.state,
        code=row.code,
        reason=row.reason,
        changed=row.changed,
        occurrence=row.occurrence,
    )


def result_view(row: AnyRow) -> ResultView:
    """A result as the API shows it."""
    return ResultView(
        run=row.run,
        job=row.job,
        client_id=row.client_id,
        host_name=row.host_name,
        generation=row.generation,
        started=row.started,
        ended=row.ended,
        received=row.received,
        exit_code=row.exit_code,
        exit_class=row.exit_class,
        timed_out=row.timed_out,
        detected=row.detected,
        output_tail=row.output_tail,
        output_bytes=row.output_bytes,
        run_as=row.run_as,
    )


def refusal_view(row: AnyRow) -> RefusalView:
    """A refusal as the API shows it."""
    return RefusalView(
        client_id=row.client_id,
        host_name=row.host_name,
        code=row.code,
        at=row.at,
        received=row.received,
        reason=row.reason,
        source=row.source,
        count=row.times,
        job=row.job,
    )


def count_assignments(connection: Connection) -> dict[str, int]:
    """Assignments of all jobs by state."""
    rows = connection.execute(
        select(assignments.c.state, assignments.c.cancelling, func.count().label("number")).group_by(
            assignments.c.state, assignments.c.cancelling
        )
    )
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[CANCELLING if row.cancelling else row.state] += row.number
    return dict(counts)


def _jobs() -> Select[*tuple[Any, ...]]:
    return select(jobs, package_versions.c.version, package_versions.c.release).join(
        package_versions, package_versions.c.id == jobs.c.package_version
    )


def _views(connection: Connection, rows: Iterable[AnyRow]) -> list[JobView]:
    listed = list(rows)
    names = [row.id for row in listed]
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    counted = connection.execute(
        select(assignments.c.job, assignments.c.state, assignments.c.cancelling, func.count().label("number"))
        .where(assignments.c.job.in_(names))
        .group_by(assignments.c.job, assignments.c.state, assignments.c.cancelling)
    )
    for each in counted:
        counts[each.job][CANCELLING if each.cancelling else each.state] += each.number
    signed = approvals.count_signers(connection, names)
    return [_view(row, dict(counts[row.id]), signed.get(row.id, 0)) for row in listed]


def _view(row: AnyRow, counts: dict[str, int], signed: int) -> JobView:
    order: JobOrder = codec.parse(JobOrder, row.body.encode(), kind="stored job order", max_bytes=_MAX_ORDER)
    return JobView(
        id=row.id,
        state=_state(row, counts, signed),
        order=order,
        package=row.package,
        version=row.version,
        release=row.release,
        program=row.program,
        generation=row.generation,
        created=row.created,
        created_by=row.created_by,
        expires=row.expires,
        counts=counts,
        approvals_needed=row.approvals_needed,
        approvals_given=signed,
    )


def _state(row: AnyRow, counts: dict[str, int], signed: int) -> JobState:
    if row.state == "cancelled":
        return "cancelling" if counts.get(CANCELLING) else "cancelled"
    if row.state == "expired":
        return "expired"
    if signed < row.approvals_needed:
        return "waiting_for_approval"
    # one that recurs is done for this time only, until it is cancelled or its last time has expired
    return "done" if counts and set(counts) <= _SETTLED and row.recurrence is None else "active"
