"""Clients, groups, jobs, and what clients report."""

import sqlalchemy as sa
from alembic import op

from pcm.site.db.tables import Moment

revision = "0002"
down_revision = "0001"

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create these tables, those that others point at first."""
    _create_clients()
    _create_enrolment_tokens()
    _create_groups()
    _create_poison()
    _create_group_members()
    _create_refusals()
    _create_reports()
    _create_results()
    _create_jobs()
    _create_approvals()
    _create_assignments()
    _create_approval_signers()


def _create_clients() -> None:
    op.create_table(
        "clients",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("client_id", sa.String(length=32), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("host_name", sa.String(length=256), nullable=False),
        sa.Column("host_key", sa.String(length=256), nullable=False),
        sa.Column("platform", sa.String(length=256), nullable=False),
        sa.Column("os_name", sa.String(length=256), nullable=False),
        sa.Column("os_version", sa.String(length=256), nullable=False),
        sa.Column("agent_version", sa.String(length=256), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("created", Moment(), nullable=False),
        sa.Column("last_seen", Moment(), nullable=True),
        sa.Column("last_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_report_sha256", sa.String(length=64), nullable=True),
        sa.Column("ledger_head", sa.String(length=64), nullable=True),
        sa.Column("stands_on", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("dropped_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("serial", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("targets", sa.LargeBinary(), nullable=True),
        sa.Column("targets_version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("body_expires", Moment(), nullable=True),
        sa.Column("renew_leases", Moment(), nullable=True),
        sa.Column("dirty", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("unwritten", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("compile_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retry_after", Moment(), nullable=True),
        sa.CheckConstraint("state in ('pending', 'enrolled', 'quarantined', 'revoked')", name=op.f("ck_clients_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clients")),
        sa.UniqueConstraint("client_id", name=op.f("uq_clients_client_id")),
    )
    op.create_index("ix_clients_body_expires", "clients", ["body_expires"], unique=False)
    op.create_index(op.f("ix_clients_host_key"), "clients", ["host_key"], unique=False)
    op.create_index("ix_clients_renew_leases", "clients", ["renew_leases"], unique=False)
    op.create_index(op.f("ix_clients_state"), "clients", ["state"], unique=False)
    op.create_index(
        "ix_clients_to_compile",
        "clients",
        ["dirty"],
        unique=False,
        sqlite_where=sa.text("dirty"),
        postgresql_where=sa.text("dirty"),
    )
    op.create_index(
        "ix_clients_to_write",
        "clients",
        ["unwritten"],
        unique=False,
        sqlite_where=sa.text("unwritten"),
        postgresql_where=sa.text("unwritten"),
    )


def _create_enrolment_tokens() -> None:
    op.create_table(
        "enrolment_tokens",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created", Moment(), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.Column("expires", Moment(), nullable=False),
        sa.Column("host_name", sa.String(length=256), nullable=True),
        sa.Column("used", Moment(), nullable=True),
        sa.Column("used_by", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_enrolment_tokens")),
    )


def _create_groups() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("created", Moment(), nullable=False),
        sa.CheckConstraint("kind in ('all', 'names')", name=op.f("ck_groups_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("name", name=op.f("uq_groups_name")),
    )


def _create_poison() -> None:
    op.create_table(
        "poison",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("source", sa.String(length=400), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=80), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("received", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_poison")),
        sa.UniqueConstraint("kind", "source", "sha256", name=op.f("uq_poison_kind_source_sha256")),
    )


def _create_group_members() -> None:
    op.create_table(
        "group_members",
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("client", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["client"], ["clients.id"], name=op.f("fk_group_members_client"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_group_members_group_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("group_id", "client", name=op.f("pk_group_members")),
    )
    op.create_index(op.f("ix_group_members_client"), "group_members", ["client"], unique=False)


def _create_refusals() -> None:
    op.create_table(
        "refusals",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("client", sa.Integer(), nullable=False),
        sa.Column("job", sa.String(length=40), nullable=True),
        sa.Column("code", sa.String(length=80), nullable=False),
        sa.Column("at", Moment(), nullable=False),
        sa.Column("received", Moment(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["client"], ["clients.id"], name=op.f("fk_refusals_client"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refusals")),
    )
    op.create_index("ix_refusals_client", "refusals", ["client", "id"], unique=False)
    op.create_index(op.f("ix_refusals_code"), "refusals", ["code"], unique=False)
    op.create_index(op.f("ix_refusals_job"), "refusals", ["job"], unique=False)


def _create_reports() -> None:
    op.create_table(
        "reports",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("client", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("payload_sha256", sa.String(length=64), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("received", Moment(), nullable=False),
        sa.ForeignKeyConstraint(["client"], ["clients.id"], name=op.f("fk_reports_client"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
        sa.UniqueConstraint("client", "seq", "payload_sha256", name=op.f("uq_reports_client_seq_payload_sha256")),
    )
    op.create_index(op.f("ix_reports_received"), "reports", ["received"], unique=False)


def _create_results() -> None:
    op.create_table(
        "results",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("client", sa.Integer(), nullable=False),
        sa.Column("job", sa.String(length=40), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("started", Moment(), nullable=False),
        sa.Column("ended", Moment(), nullable=False),
        sa.Column("received", Moment(), nullable=False),
        sa.Column("exit_code", sa.BigInteger(), nullable=True),
        sa.Column("exit_class", sa.String(length=40), nullable=False),
        sa.Column("timed_out", sa.Boolean(), nullable=False),
        sa.Column("detected", sa.Boolean(), nullable=True),
        sa.Column("output_tail", sa.Text(), nullable=False),
        sa.Column("output_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["client"], ["clients.id"], name=op.f("fk_results_client"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_results")),
        sa.UniqueConstraint("client", "run", name=op.f("uq_results_client_run")),
    )
    op.create_index(op.f("ix_results_job"), "results", ["job"], unique=False)


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("group_name", sa.String(length=63), nullable=False),
        sa.Column("package_version", sa.Integer(), nullable=False),
        sa.Column("package", sa.String(length=100), nullable=False),
        sa.Column("program", sa.String(length=40), nullable=False),
        sa.Column("purpose", sa.String(length=20), nullable=False),
        sa.Column("offer_after", Moment(), nullable=False),
        sa.Column("expires", Moment(), nullable=True),
        sa.Column("created", Moment(), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.Column("approvals_needed", sa.Integer(), nullable=False),
        sa.CheckConstraint("state in ('active', 'cancelled', 'expired')", name=op.f("ck_jobs_state")),
        sa.ForeignKeyConstraint(["package_version"], ["package_versions.id"], name=op.f("fk_jobs_package_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_created", "jobs", ["created", "id"], unique=False)
    op.create_index("ix_jobs_expires", "jobs", ["state", "expires"], unique=False)
    op.create_index(op.f("ix_jobs_package"), "jobs", ["package"], unique=False)
    op.create_index(op.f("ix_jobs_package_version"), "jobs", ["package_version"], unique=False)


def _create_approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("job", sa.String(length=40), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("emergency", sa.Boolean(), nullable=False),
        sa.Column("received", Moment(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_approvals_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
        sa.UniqueConstraint("job", "sha256", name=op.f("uq_approvals_job_sha256")),
    )


def _create_assignments() -> None:
    op.create_table(
        "assignments",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("job", sa.String(length=40), nullable=False),
        sa.Column("client", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("cancelling", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("offered_serial", sa.BigInteger(), nullable=True),
        sa.Column("withdrawn_serial", sa.BigInteger(), nullable=True),
        sa.Column("code", sa.String(length=80), server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created", Moment(), nullable=False),
        sa.Column("changed", Moment(), nullable=False),
        sa.ForeignKeyConstraint(["client"], ["clients.id"], name=op.f("fk_assignments_client"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_assignments_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
        sa.UniqueConstraint("job", "client", name=op.f("uq_assignments_job_client")),
    )
    op.create_index("ix_assignments_client_state", "assignments", ["client", "state"], unique=False)
    op.create_index("ix_assignments_job_state", "assignments", ["job", "state"], unique=False)


def _create_approval_signers() -> None:
    op.create_table(
        "approval_signers",
        sa.Column("approval", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.ForeignKeyConstraint(
            ["approval"], ["approvals.id"], name=op.f("fk_approval_signers_approval"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("approval", "name", name=op.f("pk_approval_signers")),
    )
