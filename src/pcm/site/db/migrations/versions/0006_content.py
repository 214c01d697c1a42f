"""What lies on which distribution server, what is still to be brought and made smaller; and which edit of a group is which."""

import sqlalchemy as sa
from alembic import op

from pcm.site.db.tables import Moment

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Three tables more. Every server begins as one about which nothing is known: the first round looks."""
    op.add_column("groups", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
    _create_distribution_states()
    _create_deliveries()
    _create_improvements()


def _create_distribution_states() -> None:
    op.create_table(
        "distribution_states",
        sa.Column("server", sa.String(length=63), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_try", Moment(), nullable=True),
        sa.Column("error_code", sa.String(length=80), server_default="", nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("away_since", Moment(), nullable=True),
        sa.Column("succeeded", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("server", name=op.f("pk_distribution_states")),
    )


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("server", sa.String(length=63), nullable=False),
        sa.Column("package_version", sa.Integer(), nullable=False),
        sa.Column("complete", Moment(), nullable=True),
        sa.Column("pending", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("wanted", sa.Integer(), server_default="1", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_try", Moment(), nullable=True),
        sa.Column("error_code", sa.String(length=80), server_default="", nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("files", sa.Integer(), server_default="0", nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("changed", Moment(), nullable=False),
        sa.ForeignKeyConstraint(
            ["package_version"],
            ["package_versions.id"],
            name=op.f("fk_deliveries_package_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("server", "package_version", name=op.f("pk_deliveries")),
    )
    op.create_index(
        "ix_deliveries_pending",
        "deliveries",
        ["server"],
        sqlite_where=sa.text("pending"),
        postgresql_where=sa.text("pending"),
    )


def _create_improvements() -> None:
    op.create_table(
        "improvements",
        sa.Column("package_version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_try", Moment(), nullable=True),
        sa.Column("started", Moment(), nullable=True),
        sa.Column("ended", Moment(), nullable=True),
        sa.Column("error_code", sa.String(length=80), server_default="", nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("objects_before", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("objects_after", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("whole", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("patches", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bundles", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "state in ('waiting', 'running', 'done', 'failed', 'given_up')", name=op.f("ck_improvements_state")
        ),
        sa.ForeignKeyConstraint(
            ["package_version"],
            ["package_versions.id"],
            name=op.f("fk_improvements_package_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("package_version", name=op.f("pk_improvements")),
    )
