"""What one batch of clients is to be told, read from the database in a few queries however many clients it has.

Step 5 of 12: between `compile` (which signs) and `instruction_files` (which lays out). An instruction is in a
client's file while its job is active, approved and not withdrawn, and the client has not ended it; what has expired
is not.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, or_, select, update

from pcm.model.errors import PcmError
from pcm.model.instruction import ManifestReference
from pcm.model.job import JobOrder
from pcm.protocol import codec
from pcm.site import approvals
from pcm.site.db.tables import AnyRow, assignments, clients, jobs
from pcm.site.db.tables_packages import package_versions
from pcm.site.instruction_files import JobFacts, JobTemplate
from pcm.site.job_life import OPEN, PLATFORM

ProofsOf = Callable[[Connection, str, int], Mapping[str, Sequence[str]]]
_MAX_ORDER = 4 * 2**20


class Sources:
    """Assignments and jobs of one batch.

    Args:
        connection: The transaction that has locked the clients.
        ids: Their dense ids.
        proofs_of: Client id → proof, for a job and its generation.
    """

    def __init__(self, connection: Connection, ids: list[int], proofs_of: ProofsOf) -> None:
        rows = connection.execute(_undone(ids)).all()
        self._broken: dict[str, PcmError] = {}
        self._templates = self._load_jobs(connection, {row.job for row in rows}, proofs_of)
        self._by_client: dict[int, list[AnyRow]] = defaultdict(list)
        for row in rows:
            if row.job in self._templates or row.job in self._broken:
                self._by_client[row.client].append(row)
        self._standing = self._load_standing(connection, ids)

    def instructions(self, client: int, client_id: str) -> list[msgspec.Raw]:
        """One client's instructions, oldest job first.

        Raises:
            RequestError: `protocol.malformed`: one of its jobs cannot be read. Its file stays as it is, rather than lose a job.
        """
        standing = self._standing[client]
        for row in self._by_client[client]:
            if row.job in self._broken:
                raise self._broken[row.job]
        return [self._templates[row.job].render(client_id, standing) for row in self._by_client[client]]

    def note_served(self, connection: Connection, served: list[int]) -> None:
        """These clients' newest files are in their rows: note what they name as offered, and what was cancelled as gone."""
        mine = assignments.c.client.in_(served)
        serial = select(clients.c.serial).where(clients.c.id == assignments.c.client).scalar_subquery()
        connection.execute(
            update(assignments)
            .where(
                mine,
                assignments.c.offered_serial.is_(None),
                assignments.c.job.in_(list(self._templates)),
                assignments.c.code != PLATFORM,
                ~assignments.c.cancelling,
            )
            .values(offered_serial=serial)
        )
        connection.execute(
            update(assignments)
            .where(mine, assignments.c.cancelling, assignments.c.withdrawn_serial.is_(None))
            .values(withdrawn_serial=serial)
        )

    def _load_jobs(self, connection: Connection, names: set[str], proofs_of: ProofsOf) -> dict[str, JobTemplate]:
        if not names:
            return {}
        rows = connection.execute(
            select(
                jobs,
                package_versions.c.version,
                package_versions.c.release,
                package_versions.c.manifest_path,
                package_versions.c.manifest_length,
                package_versions.c.manifest_sha256,
            )
            .join(package_versions, package_versions.c.id == jobs.c.package_version)
            .where(jobs.c.id.in_(names))
        ).all()
        signed = approvals.count_signers(connection, names)
        templates: dict[str, JobTemplate] = {}
        for row in rows:
            if signed.get(row.id, 0) < row.approvals_needed:
                continue
            try:
                templates[row.id] = JobTemplate(_facts(connection, row, signed.get(row.id, 0), proofs_of))
            except PcmError as error:
                self._broken[row.id] = error
        return templates

    def _load_standing(self, connection: Connection, ids: list[int]) -> dict[int, dict[str, str]]:
        """For jobs that others wait for: client → job → state."""
        waited = {name for template in self._templates.values() for name in template.facts.order.after}
        standing: dict[int, dict[str, str]] = defaultdict(dict)
        if waited:
            query = select(assignments.c.client, assignments.c.job, assignments.c.state).where(
                assignments.c.client.in_(ids), assignments.c.job.in_(waited)
            )
            for row in connection.execute(query):
                standing[row.client][row.job] = row.state
        return standing


def _facts(connection: Connection, row: AnyRow, signed: int, proofs_of: ProofsOf) -> JobFacts:
    order: JobOrder = codec.parse(JobOrder, row.body.encode(), kind="stored job order", max_bytes=_MAX_ORDER)
    return JobFacts(
        id=row.id,
        generation=row.generation,
        order=order,
        created=row.created,
        package=row.package,
        version=row.version,
        release=row.release,
        manifest=ManifestReference(row.manifest_path, row.manifest_length, row.manifest_sha256),
        envelopes=approvals.stored(connection, row.id) if signed else (),
        proofs=proofs_of(connection, row.id, row.generation) if signed else None,
    )


def _undone(ids: list[int]) -> Any:
    not_for_it = assignments.c.code == PLATFORM
    return (
        select(assignments.c.client, assignments.c.job)
        .join(jobs, jobs.c.id == assignments.c.job)
        .join(package_versions, package_versions.c.id == jobs.c.package_version)
        .where(
            assignments.c.client.in_(ids),
            assignments.c.state.in_((*OPEN, "restart_pending")),
            ~assignments.c.cancelling,
            or_(assignments.c.state != "not_applicable", ~not_for_it),
            jobs.c.state == "active",
            package_versions.c.withdrawn.is_(None),
        )
        .order_by(assignments.c.client, jobs.c.created, jobs.c.id)
    )
