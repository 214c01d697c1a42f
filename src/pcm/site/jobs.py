"""Jobs: an order becomes a job, its assignments, an audit row and dirty clients, in one transaction; or only a plan.

Step 3 of 12: after the API has checked the right, before `targeting` and `compile`. What contradicts itself or has
nothing to run is refused here, with the reason (KB Q174933, Q174462, Q186414), never discovered by silence later.
Bulk: 100,000 clients in seconds (KB Q153087). It signs nothing.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, and_, insert, select

from pcm.model.errors import RequestError
from pcm.model.job import JobOrder, check_order, job_id, last_expiry
from pcm.model.program import Program, asks_for_more, build_argv
from pcm.protocol import codec
from pcm.protocol.admin_jobs import JobPlan, PlannedClient
from pcm.protocol.manifest import Manifest
from pcm.site import audit, catalogue, clients, groups, job_life, repository
from pcm.site.db.tables import AnyRow, assignments, jobs
from pcm.site.db.tables_packages import programs
from pcm.site.targeting import Decision, decide_all

SHOWN = 1000
_CHUNK = 5000


@dataclass(frozen=True)
class Resolved:
    """An order with everything that it names, checked."""

    order: JobOrder
    group: AnyRow
    version: AnyRow
    manifest: Manifest
    program: Program
    argv: tuple[str, ...]
    decisions: list[Decision]
    notes: tuple[str, ...]

    def of(self, verdict: str) -> list[Decision]:
        """Decisions with this verdict."""
        return [decision for decision in self.decisions if decision.verdict == verdict]


def resolve(connection: Connection, order: JobOrder, now: datetime) -> Resolved:
    """Check an order against everything that it names, and decide about each client of its group.

    Raises:
        RequestError: `job.contradiction`, `job.nothing_to_run`, `job.not_approvable`, `job.secret`, `job.unsupported`,
            `package.withdrawn`, `package.not_ready`, `request.parameter`, `not_found`.
    """
    check_order(order, now)
    package = catalogue.find_package(connection, order.package)
    version = catalogue.find_version(connection, package, order.version)
    if repository.has_unwritten(connection):
        raise RequestError(
            "A publication has not reached every distribution server yet; order again in a moment.",
            code="package.not_ready",
        )
    manifest = catalogue.load_manifest(connection, version.manifest_sha256)
    program = manifest.programs.get(order.program)
    if program is None:
        raise RequestError(
            f"{order.package} {version.version} has no program {order.program[:40]!r}; it has "
            f"{', '.join(sorted(manifest.programs))}.",
            code="not_found",
        )
    argv = _check_program(connection, order, manifest, program)
    _check_after(connection, order)
    group = groups.find(connection, order.group)
    decisions = decide_all(groups.candidates(connection, group), manifest.platforms)
    resolved = Resolved(
        order, group, version, manifest, program, argv, decisions, _notes(order, group, program, decisions)
    )
    _check_something_to_run(resolved)
    _check_others(connection, resolved)
    return resolved


def plan(connection: Connection, order: JobOrder, now: datetime) -> JobPlan:
    """What the job would do, changing nothing. Raises like `resolve`."""
    resolved = resolve(connection, order, now)
    included = len(resolved.of("included"))
    shown = sorted(resolved.decisions, key=lambda decision: decision.verdict != "included")[:SHOWN]
    return JobPlan(
        package=order.package,
        version=resolved.version.version,
        release=resolved.version.release,
        program=order.program,
        argv=resolved.argv,
        included=included,
        excluded=len(resolved.decisions) - included,
        clients=tuple(
            PlannedClient(
                decision.candidate.client_id,
                decision.candidate.host_name,
                decision.verdict == "included",
                decision.reason,
            )
            for decision in shown
        ),
        download_bytes=resolved.manifest.content_bytes(),
        approvals_needed=resolved.program.approvals,
        notes=resolved.notes,
    )


def create(connection: Connection, order: JobOrder, actor: str, now: datetime) -> str:
    """Make the job with all its assignments, in the caller's transaction.

    Returns:
        Its id.

    Raises:
        RequestError: as `resolve`.
    """
    resolved = resolve(connection, order, now)
    job = job_id(secrets.randbits(50))
    offer = order.offer_after or now
    connection.execute(
        insert(jobs).values(
            id=job,
            state="active",
            generation=1,
            body=codec.encode(order).decode(),
            group_name=order.group,
            package_version=resolved.version.id,
            package=order.package,
            program=order.program,
            purpose=order.purpose,
            offer_after=offer,
            expires=site_expiry(order),
            recurrence=order.recurrence,
            created=now,
            created_by=actor[:100],
            approvals_needed=resolved.program.approvals,
        )
    )
    included = resolved.of("included")
    rows = [
        job_life.new_assignment(job, decision.candidate.id, 1, decision.reason, now)
        for decision in (*included, *resolved.of("not_applicable"))
    ]
    for chunk in _chunks(rows):
        connection.execute(insert(assignments), chunk)
    clients.mark_dirty(connection, (decision.candidate.id for decision in included))
    what = f"{order.program} {order.package} {resolved.version.version} on {order.group}: {len(included)} clients"
    audit.record(connection, now, actor, "job.create", job, what)
    return job


def site_expiry(order: JobOrder) -> datetime | None:
    """When the site takes a job for expired. Clients expire by themselves, by their own clock.

    A recurring job has expired when its last time has; one whose rule does not end never does.
    """
    expires = order.expires_after if order.recurrence is None else last_expiry(order)
    if expires is None or order.clock == "utc":
        return expires
    return expires.replace(tzinfo=UTC) + job_life.LAST_ZONE


def _check_program(connection: Connection, order: JobOrder, manifest: Manifest, program: Program) -> tuple[str, ...]:
    unknown = asks_for_more(program)
    if unknown:
        raise RequestError(
            f"Program {order.program} of {order.package} {manifest.version} asks for {', '.join(unknown)}: this version of the "
            "service does not do this yet, so every client would refuse it.",
            code="job.unsupported",
        )
    for name in order.parameters:
        if name in manifest.parameters and manifest.parameters[name].secret:
            raise RequestError(
                f"parameter {name} is secret; instruction files hold no secrets, and sealing values to each client is "
                "not possible yet.",
                code="job.secret",
            )
    argv = build_argv(program, manifest.parameters, order.parameters)
    if order.purpose == "optional" and not program.user_requestable:
        raise RequestError(
            f"The job contradicts itself: it is optional, but program {order.program} is not user_requestable, so nobody "
            "could ever start it.",
            code="job.contradiction",
        )
    known = len(repository.current_policy(connection).approvers)
    if program.approvals > known:
        raise RequestError(
            f"Program {order.program} needs {program.approvals} approvals, but the site's signed policy names {known} approvers.",
            code="job.not_approvable",
        )
    return argv


def _check_after(connection: Connection, order: JobOrder) -> None:
    for name in order.after:
        other = connection.execute(
            select(jobs.c.state, programs.c.run_as)
            .join(
                programs,
                and_(programs.c.package_version == jobs.c.package_version, programs.c.name == jobs.c.program),
                isouter=True,
            )
            .where(jobs.c.id == name[:40])
        ).first()
        if other is None:
            raise RequestError(
                f"after: there is no job {name[:40]!r}. `pcm job list` shows what there is.", code="not_found"
            )
        if other.state != "active":
            raise RequestError(
                f"The job contradicts itself: it waits for job {name}, which is {other.state}.",
                code="job.contradiction",
            )
        if other.run_as == "each_user":
            raise RequestError(
                f"The job contradicts itself: it waits for job {name}, which runs for each user at their next logon and is "
                "never done for all of them.",
                code="job.contradiction",
            )


def _notes(order: JobOrder, group: AnyRow, program: Program, decisions: list[Decision]) -> tuple[str, ...]:
    notes: list[str] = []
    if group.kind == "all" and not program.approvals:
        notes.append("Clients that enrol later get this job too.")
    if program.approvals:
        notes.append(f"It is written to clients once {program.approvals} approvers have signed it.")
    if order.purpose == "mandatory" and order.mandatory_after is None:
        notes.append("Mandatory as soon as it is offered.")
    if any(decision.verdict == "not_applicable" for decision in decisions):
        notes.append("Clients of other platforms are listed as not applicable.")
    return tuple(notes)


def _check_something_to_run(resolved: Resolved) -> None:
    """KB Q174462: a job with nothing to run is refused. An empty `all` waits for its first client, if it may grow."""
    if resolved.of("included"):
        return
    if not resolved.decisions and resolved.group.kind == "all" and not resolved.program.approvals:
        return
    why = resolved.decisions[0].reason if resolved.decisions else "it has no clients"
    raise RequestError(
        f"There is nothing to run: no client of group {resolved.group.name} would get this job ({why}).",
        code="job.nothing_to_run",
    )


def _check_others(connection: Connection, resolved: Resolved) -> None:
    """Refuse to order that one package be both installed and removed on one client, in no stated order."""
    order = resolved.order
    if order.purpose != "mandatory":
        return
    removing = order.program == "uninstall"
    others = connection.execute(
        select(jobs.c.id, jobs.c.program).where(
            jobs.c.state == "active",
            jobs.c.package == order.package,
            jobs.c.purpose == "mandatory",
            (jobs.c.program != "uninstall") if removing else (jobs.c.program == "uninstall"),
            jobs.c.id.not_in(order.after),
        )
    ).all()
    mine = {decision.candidate.id for decision in resolved.of("included")}
    for other in others:
        undone = connection.execute(
            select(assignments.c.client).where(
                assignments.c.job == other.id, assignments.c.state.in_(job_life.BEFORE_RUNNING)
            )
        ).scalars()
        common = len(mine.intersection(undone))
        if common:
            raise RequestError(
                f"Job {other.id} still has to {other.program} {order.package} on {common} of these clients. Cancel it, or order "
                f"this one after it (after: {other.id}).",
                code="job.contradiction",
            )


def _chunks(rows: list[dict[str, object]]) -> Iterable[list[dict[str, object]]]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
