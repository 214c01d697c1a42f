"""Approvals: what approvers sign, who has signed, and what of it goes into instructions.

Serves steps 3 and 5. The site offers the bytes to sign and keeps what comes back; it can neither make nor weaken an
approval, because the approvers' keys stand in the offline-signed policy, and every client checks for itself. One
signature covers the job's clients by name (`pcm.model.audience`), so nobody joins an approved job later.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from pcm.model.audience import audience_proofs, audience_root
from pcm.model.errors import RequestError
from pcm.model.job import JobOrder
from pcm.protocol.admin_jobs import ApprovalQuestion
from pcm.protocol.approval import MAX_BYTES, PAYLOAD_TYPE, ApprovalOrder, read_approval, recurrence_told, write_approval
from pcm.site import audit, job_life, repository
from pcm.site.db.tables import AnyRow, approval_signers, approvals, assignments, clients, jobs
from pcm.site.db.tables_packages import package_versions
from pcm.trust import envelopes

MAX_ENVELOPE = 12_000  # as base64 text it must fit into an instruction
VALID_FOR = timedelta(days=30)  # if the job itself does not expire


def question(connection: Connection, job: str, site: str, *, emergency: bool) -> ApprovalQuestion:
    """The bytes that approvers sign for a job.

    Raises:
        RequestError: `not_found`, `job.state`.
    """
    row = _find(connection, job)
    order = _order_to_sign(connection, row, site, emergency=emergency)
    return ApprovalQuestion(
        write_approval(order), PAYLOAD_TYPE, row.approvals_needed, tuple(sorted(signers(connection, job)))
    )


def add(connection: Connection, job: str, envelope: bytes, site: str, actor: str, now: datetime) -> tuple[str, ...]:
    """Keep an approval.

    Returns:
        Names of the approvers whose signatures hold in it.

    Raises:
        RequestError: `approval.other_order`: it was signed over something else than this job as it is now;
            `approval.unknown_signer`; `protocol.*`; `not_found`, `job.state`.
    """
    row = _find(connection, job)
    if len(envelope) > MAX_ENVELOPE:
        raise RequestError(f"An approval has at most {MAX_ENVELOPE} bytes.", code="protocol.too_long")
    payload, signatures = envelopes.read(envelope, payload_type=PAYLOAD_TYPE, max_bytes=2 * MAX_BYTES)
    said = read_approval(payload)
    if said != _order_to_sign(connection, row, site, emergency=said.emergency):
        raise RequestError(
            f"This approval speaks of something else than job {job} as it is now. Fetch it again and sign that.",
            code="approval.other_order",
        )
    known = {approver.name: approver.public_key for approver in repository.current_policy(connection).approvers}
    names = tuple(sorted(envelopes.signed_by(PAYLOAD_TYPE, payload, signatures, known)))
    if not names:
        raise RequestError("No approver of the site's policy has signed this.", code="approval.unknown_signer")
    digest = hashlib.sha256(envelope).hexdigest()
    if connection.execute(select(approvals.c.id).where(approvals.c.job == job, approvals.c.sha256 == digest)).first():
        return names
    key = connection.execute(
        insert(approvals).values(
            job=job,
            generation=row.generation,
            sha256=digest,
            envelope=envelope,
            emergency=said.emergency,
            received=now,
        )
    ).inserted_primary_key
    assert key is not None
    connection.execute(insert(approval_signers), [{"approval": key[0], "name": name} for name in names])
    mine = select(assignments.c.client).where(assignments.c.job == job)
    connection.execute(update(clients).where(clients.c.id.in_(mine), clients.c.state == "enrolled").values(dirty=True))
    kind = "emergency approval" if said.emergency else "approval"
    audit.record(connection, now, actor, "job.approve", job, f"{kind} by {', '.join(names)}")
    return names


def signers(connection: Connection, job: str) -> set[str]:
    """Names of all approvers who have signed a job."""
    query = (
        select(approval_signers.c.name)
        .join(approvals, approvals.c.id == approval_signers.c.approval)
        .where(approvals.c.job == job)
    )
    return set(connection.execute(query).scalars())


def count_signers(connection: Connection, job_ids: Iterable[str]) -> dict[str, int]:
    """Job id → how many approvers have signed, for those that any has."""
    rows = connection.execute(
        select(approvals.c.job, func.count(func.distinct(approval_signers.c.name)).label("number"))
        .join(approval_signers, approval_signers.c.approval == approvals.c.id)
        .where(approvals.c.job.in_(list(job_ids)))
        .group_by(approvals.c.job)
    )
    return {row.job: row.number for row in rows}


def stored(connection: Connection, job: str) -> tuple[bytes, ...]:
    """A job's envelopes, newest last; at most what an instruction may carry."""
    rows = connection.execute(
        select(approvals.c.envelope).where(approvals.c.job == job).order_by(approvals.c.id.desc()).limit(16)
    ).scalars()
    return tuple(bytes(envelope) for envelope in reversed(rows.all()))


def audience(connection: Connection, job: str) -> list[str]:
    """Client ids that a job's approvals are for: all that it was given to when it was made."""
    return list(
        connection.execute(
            select(clients.c.client_id)
            .join(assignments, assignments.c.client == clients.c.id)
            .where(assignments.c.job == job, assignments.c.code != job_life.PLATFORM)
        ).scalars()
    )


def proofs(connection: Connection, job: str) -> Mapping[str, Sequence[str]]:
    """For each client of a job its place in the audience that approvers have signed."""
    return audience_proofs(audience(connection, job))


def _find(connection: Connection, job: str) -> AnyRow:
    row = connection.execute(
        select(jobs, package_versions.c.release, package_versions.c.manifest_sha256)
        .join(package_versions, package_versions.c.id == jobs.c.package_version)
        .where(jobs.c.id == job[:40])
    ).first()
    if row is None:
        raise RequestError(f"There is no job {job[:40]!r}. `pcm job list` shows what there is.", code="not_found")
    if row.state != "active":
        raise RequestError(f"Job {job} is {row.state}; there is nothing to approve.", code="job.state")
    return row


def _order_to_sign(connection: Connection, row: AnyRow, site: str, *, emergency: bool) -> ApprovalOrder:
    order = msgspec.json.decode(row.body, type=JobOrder)
    members = audience(connection, row.id)
    expires = row.expires or (row.created + VALID_FOR)
    return ApprovalOrder(
        site=site,
        job=row.id,
        generation=row.generation,
        package=row.package,
        release=row.release,
        program=row.program,
        manifest_sha256=row.manifest_sha256,
        parameters=order.parameters,
        # what recurs says when it begins (`model.job`)
        recurrence=None
        if order.offer_after is None
        else recurrence_told(order.recurrence, order.offer_after, order.clock),
        audience=audience_root(members),
        audience_size=len(members),
        expires=expires.replace(microsecond=0),
        emergency=emergency,
    )
