"""Tables of clients, groups, jobs and what clients report. Typed columns for whatever is searched.

Serves steps 3, 4, 5 and 12; `tables_packages` holds step 2's. Comes before `database` (connections) and is mirrored
by `migrations`: a test holds the two together. Dense integer ids, so that sets of clients stay small. Nothing here
connects to anything.
"""

from datetime import UTC, datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


AnyRow: TypeAlias = Row[*tuple[Any, ...]]
"""A row of any query; columns are its attributes."""


class Moment(TypeDecorator[datetime]):
    """An aware time, kept and given back as UTC; a naive one is refused (KB Q169474: UTC everywhere)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Into the database; SQLite keeps text without an offset."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without an offset cannot be stored")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Out of the database."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def row_id() -> Column[Any]:
    """A growing 64-bit id (SQLite counts up only in its own INTEGER, which is 64 bits there)."""
    return Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True)


def client_key(*, nullable: bool = False) -> Column[Any]:
    """A reference to `clients.id`."""
    return Column("client", Integer, ForeignKey("clients.id", ondelete="CASCADE"), nullable=nullable)


settings = Table(
    "settings",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("value", Text, nullable=False),
)

servers = Table(
    "servers",
    metadata,
    Column("kind", String(20), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("location", String(400), nullable=False),
    Column("folder", Text),
    Column("position", Integer, nullable=False),
    CheckConstraint("kind in ('logon', 'distribution')", name="kind"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("jti", String(64), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("role", String(20), nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
    Column("revoked", Moment),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("created", Moment, nullable=False),
    Column("created_by", String(100), nullable=False),
    Column("expires", Moment, nullable=False),
    Column("host_name", String(256)),
    Column("used", Moment),
    Column("used_by", String(32)),
)

clients = Table(
    "clients",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("client_id", String(32), nullable=False, unique=True),
    Column("public_key", Text, nullable=False),
    Column("host_name", String(256), nullable=False),
    Column("host_key", String(256), nullable=False, index=True),  # lower case, for look-ups
    Column("platform", String(256), nullable=False),
    Column("os_name", String(256), nullable=False),
    Column("os_version", String(256), nullable=False),
    Column("agent_version", String(256), nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("note", Text, nullable=False, server_default=""),
    Column("created", Moment, nullable=False),
    Column("last_seen", Moment),
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    Column("last_report_sha256", String(64)),
    Column("ledger_head", String(64)),
    Column("ledger_total", BigInteger, nullable=False, server_default="0"),
    Column("ledger_broken", Moment),
    Column("ledger_note", Text, nullable=False, server_default=""),
    Column("stands_on", BigInteger, nullable=False, server_default="0"),
    Column("dropped_seq", BigInteger, nullable=False, server_default="0"),  # newest report that came by a drop folder
    # the instruction file, as the database knows it; files in logon folders are a projection of it
    Column("serial", BigInteger, nullable=False, server_default="0"),
    Column("content_sha256", String(64)),  # of all that matters in the body: not of its serial and dates
    Column("body", LargeBinary),
    Column("targets", LargeBinary),
    Column("targets_version", BigInteger, nullable=False, server_default="0"),
    Column("body_expires", Moment),
    Column("renew_leases", Moment),  # when static folders need fresh leases; a logon server over HTTP signs its own
    Column("dirty", Boolean, nullable=False, server_default=text("false")),
    Column("unwritten", Boolean, nullable=False, server_default=text("false")),
    Column("compile_failures", Integer, nullable=False, server_default="0"),
    Column("retry_after", Moment),
    CheckConstraint("state in ('pending', 'enrolled', 'quarantined', 'revoked')", name="state"),
    Index("ix_clients_to_compile", "dirty", sqlite_where=text("dirty"), postgresql_where=text("dirty")),
    Index("ix_clients_to_write", "unwritten", sqlite_where=text("unwritten"), postgresql_where=text("unwritten")),
    Index("ix_clients_renew_leases", "renew_leases"),
    Index("ix_clients_body_expires", "body_expires"),
)

groups = Table(
    "groups",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("kind", String(20), nullable=False),
    Column("created", Moment, nullable=False),
    Column(
        "revision", Integer, nullable=False, server_default="1"
    ),  # counts edits: one that did not see the last is refused
    CheckConstraint("kind in ('all', 'names')", name="kind"),
)

group_members = Table(
    "group_members",
    metadata,
    Column("group_id", Integer, ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True),
    Column("client", Integer, ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True, index=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("body", Text, nullable=False),  # the order as given (JSON), for showing and compiling
    Column("group_name", String(63), nullable=False),
    Column("package_version", Integer, ForeignKey("package_versions.id"), nullable=False, index=True),
    Column("package", String(100), nullable=False, index=True),
    Column("program", String(40), nullable=False),
    Column("purpose", String(20), nullable=False),
    Column("offer_after", Moment, nullable=False),
    Column("expires", Moment),  # when the site takes it for expired, in UTC
    Column("recurrence", String(400)),  # the rule of one that recurs: it stays in instruction files when it is done
    Column("created", Moment, nullable=False),
    Column("created_by", String(100), nullable=False),
    Column("approvals_needed", Integer, nullable=False),
    CheckConstraint("state in ('active', 'cancelled', 'expired')", name="state"),
    Index("ix_jobs_expires", "state", "expires"),
    Index("ix_jobs_created", "created", "id"),
)

assignments = Table(
    "assignments",
    metadata,
    row_id(),
    Column("job", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    client_key(),
    Column("generation", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("cancelling", Boolean, nullable=False, server_default=text("false")),
    Column("occurrence", Moment),  # which time of a recurring job the state is about, as the client names it
    Column("offered_serial", BigInteger),  # the first instruction file that names it
    Column("withdrawn_serial", BigInteger),  # the first one after its cancellation that does not
    Column("code", String(80), nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    Column("created", Moment, nullable=False),
    Column("changed", Moment, nullable=False),
    UniqueConstraint("job", "client"),
    Index("ix_assignments_client_state", "client", "state"),
    Index("ix_assignments_job_state", "job", "state"),
)

results = Table(
    "results",
    metadata,
    row_id(),
    Column("run", String(32), nullable=False),
    client_key(),
    Column("job", String(40), nullable=False, index=True),
    Column("generation", Integer, nullable=False),
    Column("started", Moment, nullable=False),
    Column("ended", Moment, nullable=False),
    Column("received", Moment, nullable=False),
    Column("exit_code", BigInteger),
    Column("exit_class", String(40), nullable=False),
    Column("timed_out", Boolean, nullable=False),
    Column("detected", Boolean),
    Column("output_tail", Text, nullable=False),
    Column("output_bytes", BigInteger, nullable=False),
    Column("run_as", String(256), nullable=False, server_default=""),
    UniqueConstraint("client", "run"),
)

refusals = Table(
    "refusals",
    metadata,
    row_id(),
    client_key(),
    Column("job", String(40), index=True),
    Column("code", String(80), nullable=False, index=True),
    Column("at", Moment, nullable=False),
    Column("received", Moment, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("times", BigInteger, nullable=False),
    Index("ix_refusals_client", "client", "id"),
)

reports = Table(
    "reports",
    metadata,
    row_id(),
    client_key(),
    Column("seq", BigInteger, nullable=False),
    Column("payload_sha256", String(64), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("received", Moment, nullable=False, index=True),
    # the hash too: after a quarantine was lifted, a new chain may use numbers of the old one again
    UniqueConstraint("client", "seq", "payload_sha256"),
)

poison = Table(
    "poison",
    metadata,
    row_id(),
    Column("kind", String(40), nullable=False),
    Column("source", String(400), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("code", String(80), nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("received", Moment, nullable=False),
    UniqueConstraint("kind", "source", "sha256"),
)

approvals = Table(
    "approvals",
    metadata,
    row_id(),
    Column("job", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("emergency", Boolean, nullable=False),
    Column("received", Moment, nullable=False),
    UniqueConstraint("job", "sha256"),
)

approval_signers = Table(
    "approval_signers",
    metadata,
    Column("approval", BigInteger, ForeignKey("approvals.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(100), primary_key=True),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("actor", String(100), nullable=False),
    Column("action", String(60), nullable=False),
    Column("subject", String(400), nullable=False),
    Column("detail", Text, nullable=False),
    Column("prev_sha256", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
)
