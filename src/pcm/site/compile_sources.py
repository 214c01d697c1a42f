"""What one batch of clients is to be told, read from the database in a few queries however many clients it has.

Step 5 of 12: between `compile` (which signs) and `instruction_files` (which lays out). An instruction is in a
client's file while its job is active, approved and not withdrawn, and the client has not ended it; what has expired
is not.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, select, update

from pcm.model.errors import PcmError
from pcm.model.instruction import ManifestReference
from pcm.model.job import JobOrder
from pcm.protocol import codec
from pcm.site import approvals
from pcm.site.db.tables import AnyRow, assignments, clients, jobs
from pcm.site.db.tables_packages import package_versions
from pcm.site.instruction_files import JobFacts, JobList, JobTemplate
from pcm.site.job_life import DONE_ONCE, OPEN, PLATFORM

ProofsOf = Callable[[Connection, str, int], Mapping[str, Sequence[str]]]
_NOTHING = JobList(())
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
        named = {text: text.split(",") for text in {row.jobs for row in rows}}
        self._templates = self._load_jobs(connection, set(chain.from_iterable(named.values())), proofs_of)
        # the same jobs, the same list, for however many clients
        lists = {text: self._lay_out(wanted) for text, wanted in named.items()}
        self._by_client = {row.client: lists[row.jobs] for row in rows}
        self._unnoted = {job for text in {row.unnoted for row in rows} if text for job in text.split(",")}
        self._standing = self._load_standing(connection, ids)

    def instructions(self, client: int, client_id: str) -> bytes:
        """One client's instructions, oldest job first, as a JSON array.

        Raises:
            RequestError: `protocol.malformed`: one of its jobs cannot be read. Its file stays as it is, rather than lose a job.
        """
        laid_out = self._by_client.get(client, _NOTHING)
        if isinstance(laid_out, PcmError):
            raise laid_out
        return laid_out.render(client_id, self._standing[client])

    def _lay_out(self, wanted: list[str]) -> JobList | PcmError:
        broken = next((self._broken[job] for job in wanted if job in self._broken), None)
        if broken is not None:
            return broken
        mine = set(wanted)
        return JobList([template for job, template in self._templates.items() if job in mine])

    def note_served(self, connection: Connection, served: list[int]) -> None:
        """These clients' newest files are in their rows: note what they name as offered, and what was cancelled as gone."""
        mine = assignments.c.client.in_(served)
        serial = select(clients.c.serial).where(clients.c.id == assignments.c.client).scalar_subquery()
        newly_named = self._unnoted & self._templates.keys()
        if newly_named:
            connection.execute(
                update(assignments)
                .where(
                    mine,
                    assignments.c.offered_serial.is_(None),
                    assignments.c.job.in_(newly_named),
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
            .order_by(jobs.c.created, jobs.c.id)
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
    """One row for each client, not for each assignment: to make rows costs more than to find them."""
    not_for_it = assignments.c.code == PLATFORM
    recurs = jobs.c.recurrence.is_not(None)
    unnoted = case((assignments.c.offered_serial.is_(None), assignments.c.job))
    return (
        select(
            assignments.c.client,
            func.aggregate_strings(assignments.c.job, ",").label("jobs"),
            func.aggregate_strings(unnoted, ",").label("unnoted"),
        )
        .join(jobs, jobs.c.id == assignments.c.job)
        .join(package_versions, package_versions.c.id == jobs.c.package_version)
        .where(
            assignments.c.client.in_(ids),
            or_(assignments.c.state.in_((*OPEN, "restart_pending")), and_(recurs, assignments.c.state.in_(DONE_ONCE))),
            ~assignments.c.cancelling,
            or_(assignments.c.state != "not_applicable", ~not_for_it),
            jobs.c.state == "active",
            package_versions.c.withdrawn.is_(None),
        )
        .group_by(assignments.c.client)
    )
