"""One opened small site on each database, with a clock that tests move."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from sqlalchemy import Table, select

from pcm.model.job import JobOrder
from pcm.protocol.admin import EnrolmentTokenRequest
from pcm.protocol.admin_jobs import JobView
from pcm.protocol.instructions import Instructions, read_instructions
from pcm.site import audit, enrolment, job_life, job_views, jobs
from pcm.site.db.database import Database
from pcm.site.db.tables import AnyRow, clients
from pcm.site.db.tables import audit as audit_table
from pcm.site.intake import Intake
from pcm.site.reports import Verdict
from pcm.site.rounds import Rounds
from pcm.testing.small_site import SmallClient, SmallSite, enrol, make_package, make_small_site

ENOUGH = 32 * 2**20
DATABASES = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.needs("postgresql")),
]


class MovableClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        # near the real time: keys and leases are checked against it
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Office:
    """An opened site with its intake and clockwork, driven by the test."""

    small: SmallSite
    site: Any
    intake: Intake
    rounds: Rounds
    clock: MovableClock

    def package(self, name: str = "tool", version: str = "1.0", release: int = 1, **changes: Any) -> None:
        package = msgspec.structs.replace(make_package(name, version, release), **changes)
        self.small.publish(self.site, package)

    def home_object(self, body: bytes) -> str:
        """The name of a file's object."""
        return hashlib.sha256(body).hexdigest()

    def token(self, **fields: Any) -> str:
        with self.site.database.write() as connection:
            return enrolment.create_token(connection, EnrolmentTokenRequest(**fields), "tester", self.clock()).token

    def enrolled(self, host_name: str = "pc-1", platform: str = "linux-x86_64") -> SmallClient:
        client = SmallClient(host_name, platform)
        assert enrol(self.intake, client, self.site.name, self.token()).state == "enrolled"
        return client

    def order(self, **fields: Any) -> str:
        order = JobOrder(**{"package": "tool", "group": "all", **fields})
        with self.site.database.write() as connection:
            return jobs.create(connection, order, "tester", self.clock())

    def cancel(self, job: str) -> None:
        with self.site.database.write() as connection:
            job_life.cancel(connection, job, "tester", self.clock())

    def job(self, job: str) -> JobView:
        with self.site.database.read() as connection:
            return job_views.show_job(connection, job)

    def report(self, client: SmallClient, **fields: Any) -> Verdict:
        return self.offer(client, client.report(self.site.name, **fields))

    def offer(self, client: SmallClient, envelope: bytes) -> Verdict:
        return self.intake.offer(client.client_id, envelope).result(10)

    def compile(self) -> int:
        return self.rounds.compiler.compile_now()

    def client(self, client: SmallClient) -> AnyRow:
        with self.site.database.read() as connection:
            row: AnyRow = connection.execute(select(clients).where(clients.c.client_id == client.client_id)).one()
            return row

    def rows(self, table: Table, *conditions: Any) -> list[AnyRow]:
        with self.site.database.read() as connection:
            return list(connection.execute(select(table).where(*conditions)).all())

    def instructions(self, client: SmallClient) -> Instructions:
        """The client's newest instruction file, as the database has it."""
        return read_instructions(bytes(self.client(client).body))

    def audited(self) -> list[str]:
        """Actions in the audit log, oldest first; the chain must hold."""
        with self.site.database.read() as connection:
            audit.verify_chain(connection)
        with self.site.database.read() as connection:
            return list(connection.execute(select(audit_table.c.action).order_by(audit_table.c.seq)).scalars())


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: every test makes a whole site, and waits for a disk more than for anything else."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < ENOUGH:
        yield tmp_path
        return
    with TemporaryDirectory(prefix="pcm-test-", dir=memory) as made:
        yield Path(made)


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    url: str = request.getfixturevalue("postgresql_database")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def open_office(tmp_path: Path, database_url: str) -> Iterator[Callable[..., Office]]:
    """Makes offices with special settings."""
    opened: list[Office] = []

    def make(**options: Any) -> Office:
        clock = MovableClock()
        small = make_small_site(tmp_path / "made", database=database_url, clock=clock, **options)
        site = small.open()
        intake = Intake(site)
        intake.start()
        rounds = Rounds(site, intake, lambda: None)
        rounds.prepare()
        opened.append(Office(small, site, intake, rounds, clock))
        return opened[-1]

    yield make
    for office in opened:
        office.intake.stop()
        office.site.close()


@pytest.fixture
def office(open_office: Callable[..., Office]) -> Office:
    return open_office()
