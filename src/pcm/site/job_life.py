"""The life of a job after its creation: clients that join, cancellation, expiry.

Serves steps 4 and 5: after `jobs`, beside `intake` (which moves single assignments by reports), before `compile`.
The site expires jobs by itself; no client needs to say so (KB Q188042). A cancelled assignment shows `cancelling`
until its client has confirmed (KB Q191338), or was never told. States move only as `pcm.model.assignment` allows.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, exists, insert, or_, select, update

from pcm.model.assignment import State
from pcm.model.errors import RequestError
from pcm.site import audit
from pcm.site.db.tables import approvals, assignments, clients, group_members, groups, jobs
from pcm.site.db.tables_packages import version_platforms
from pcm.site.targeting import Candidate, decide

BEFORE_RUNNING = ("offered", "waiting", "downloading", "ready", "asked", "deferred")
# what a cancellation ends: everything that might still run, or run again
OPEN = (*BEFORE_RUNNING, "running", "unknown", "failed", "not_applicable", "already_installed", "refused")
# what ends one time of a recurring job, and not the job
DONE_ONCE = ("succeeded", "expired", "cancelled")
PLATFORM = "job.platform"
# the last zone on earth reaches a wall-clock time twelve hours after UTC does
LAST_ZONE = timedelta(hours=12)


def join(connection: Connection, client: int, now: datetime) -> int:
    """Give a client the active jobs of its groups that it does not have yet (it enrolled, or joined a group).

    Jobs that approvers have signed, or must, name their clients: nobody joins those later.

    Returns:
        How many assignments were made.
    """
    row = connection.execute(
        select(clients.c.id, clients.c.client_id, clients.c.host_name, clients.c.platform, clients.c.state).where(
            clients.c.id == client
        )
    ).one()
    candidate = Candidate(*row)
    if candidate.state != "enrolled":
        return 0
    member = exists().where(group_members.c.group_id == groups.c.id, group_members.c.client == client)
    assigned = exists().where(assignments.c.job == jobs.c.id, assignments.c.client == client)
    approved = exists().where(approvals.c.job == jobs.c.id)
    open_jobs = (
        select(jobs.c.id, jobs.c.generation, jobs.c.package_version)
        .join(groups, groups.c.name == jobs.c.group_name)
        .where(jobs.c.state == "active", jobs.c.approvals_needed == 0, ~approved, ~assigned)
        .where(or_(groups.c.kind == "all", member))
        .where(or_(jobs.c.expires.is_(None), jobs.c.expires > now))
        .order_by(jobs.c.created, jobs.c.id)
    )
    rows = [
        new_assignment(job.id, client, job.generation, _refusal(connection, candidate, job.package_version), now)
        for job in connection.execute(open_jobs).all()
    ]
    if rows:
        connection.execute(insert(assignments), rows)
        connection.execute(update(clients).where(clients.c.id == client).values(dirty=True))
    return len(rows)


def new_assignment(job: str, client: int, generation: int, refusal: str, now: datetime) -> dict[str, object]:
    """The row of a fresh assignment; with a refusal it is not applicable from the beginning, and says why."""
    state = State.NOT_APPLICABLE if refusal else State.OFFERED
    return {
        "job": job,
        "client": client,
        "generation": generation,
        "state": state.value,
        "code": PLATFORM if refusal else "",
        "reason": refusal,
        "created": now,
        "changed": now,
    }


def cancel(connection: Connection, job: str, actor: str, now: datetime) -> None:
    """Withdraw a job: its instructions vanish from the clients' next files.

    Raises:
        RequestError: `not_found`; `job.state`: it is cancelled or expired already.
    """
    row = connection.execute(select(jobs.c.state).where(jobs.c.id == job).with_for_update()).first()
    if row is None:
        raise RequestError(f"There is no job {job[:40]!r}. `pcm job list` shows what there is.", code="not_found")
    if row.state != "active":
        raise RequestError(f"Job {job} is {row.state} already.", code="job.state")
    connection.execute(update(jobs).where(jobs.c.id == job).values(state="cancelled"))
    mine = assignments.c.job == job
    never_told = and_(
        mine, assignments.c.offered_serial.is_(None), assignments.c.state.in_(("offered", "not_applicable"))
    )
    connection.execute(update(assignments).where(never_told).values(state=State.CANCELLED.value, changed=now))
    told = and_(mine, assignments.c.state.in_(OPEN))
    concerned = connection.execute(update(assignments).where(told).values(cancelling=True, changed=now)).rowcount
    _make_anew(connection, job)
    audit.record(connection, now, actor, "job.cancel", job, f"{concerned} clients have to confirm")


def expire(connection: Connection, now: datetime) -> list[str]:
    """Expire jobs whose time has come, and those of their assignments that have not begun (KB Q225056, Q188042).

    Returns:
        Ids of the jobs.
    """
    due = connection.execute(select(jobs.c.id).where(jobs.c.state == "active", jobs.c.expires <= now)).scalars().all()
    for job in due:
        connection.execute(update(jobs).where(jobs.c.id == job).values(state="expired"))
        connection.execute(
            update(assignments)
            .where(assignments.c.job == job, assignments.c.state.in_(BEFORE_RUNNING))
            .values(state=State.EXPIRED.value, changed=now, reason="the job's time is over", code="job.expired")
        )
        _make_anew(connection, job)
        audit.record(connection, now, audit.SITE, "job.expire", job)
    return list(due)


def confirm_silent(connection: Connection, client: int, stands_on: int, now: datetime) -> None:
    """Close cancellations that this client confirms by standing on a file without them, never having spoken of them."""
    connection.execute(
        update(assignments)
        .where(
            assignments.c.client == client,
            assignments.c.cancelling,
            assignments.c.state == State.OFFERED.value,
            assignments.c.withdrawn_serial <= stands_on,
        )
        .values(state=State.CANCELLED.value, cancelling=False, changed=now)
    )


def _make_anew(connection: Connection, job: str) -> None:
    told = select(assignments.c.client).where(assignments.c.job == job, assignments.c.offered_serial.is_not(None))
    connection.execute(update(clients).where(clients.c.id.in_(told), clients.c.state == "enrolled").values(dirty=True))


def _refusal(connection: Connection, candidate: Candidate, package_version: int) -> str:
    platforms = connection.execute(
        select(version_platforms.c.platform).where(version_platforms.c.package_version == package_version)
    ).scalars()
    decision = decide(candidate, list(platforms))
    return decision.reason if decision.verdict == "not_applicable" else ""
