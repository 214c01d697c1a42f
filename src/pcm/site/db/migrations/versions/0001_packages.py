"""Packages, signed metadata, servers, tokens and the audit log."""

import sqlalchemy as sa
from alembic import op

from pcm.site.db.tables import Moment

revision = "0001"
down_revision = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create these tables, those that others point at first."""
    _create_api_tokens()
    _create_audit()
    _create_manifests()
    _create_packages()
    _create_repository_files()
    _create_servers()
    _create_settings()
    _create_package_versions()
    _create_programs()
    _create_version_platforms()


def _create_api_tokens() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("jti", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("created", Moment(), nullable=False),
        sa.Column("expires", Moment(), nullable=False),
        sa.Column("revoked", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("jti", name=op.f("pk_api_tokens")),
    )


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", _ROW_ID, autoincrement=False, nullable=False),
        sa.Column("at", Moment(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("subject", sa.String(length=400), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("prev_sha256", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )


def _create_manifests() -> None:
    op.create_table(
        "manifests",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=400), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("unwritten", sa.Boolean(), server_default=sa.text("(true)"), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_manifests")),
    )


def _create_packages() -> None:
    op.create_table(
        "packages",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("team", sa.String(length=40), nullable=False),
        sa.Column("summary", sa.String(length=200), nullable=False),
        sa.Column("publisher", sa.String(length=200), nullable=False),
        sa.Column("created", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_packages")),
        sa.UniqueConstraint("name", name=op.f("uq_packages_name")),
    )


def _create_repository_files() -> None:
    op.create_table(
        "repository_files",
        sa.Column("repository", sa.String(length=20), nullable=False),
        sa.Column("role", sa.String(length=63), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("expires", Moment(), nullable=False),
        sa.Column("unwritten", sa.Boolean(), server_default=sa.text("(true)"), nullable=False),
        sa.PrimaryKeyConstraint("repository", "role", "version", name=op.f("pk_repository_files")),
    )


def _create_servers() -> None:
    op.create_table(
        "servers",
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("location", sa.String(length=400), nullable=False),
        sa.Column("folder", sa.Text(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.CheckConstraint("kind in ('logon', 'distribution')", name=op.f("ck_servers_kind")),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_servers")),
    )


def _create_settings() -> None:
    op.create_table(
        "settings",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_settings")),
    )


def _create_package_versions() -> None:
    op.create_table(
        "package_versions",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("package", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=100), nullable=False),
        sa.Column("release", sa.BigInteger(), nullable=False),
        sa.Column("min_release", sa.BigInteger(), nullable=False),
        sa.Column("signed_at", Moment(), nullable=False),
        sa.Column("published", Moment(), nullable=False),
        sa.Column("withdrawn", Moment(), nullable=True),
        sa.Column("manifest_path", sa.String(length=400), nullable=False),
        sa.Column("manifest_length", sa.BigInteger(), nullable=False),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["package"], ["packages.id"], name=op.f("fk_package_versions_package"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_package_versions")),
        sa.UniqueConstraint("package", "release", name=op.f("uq_package_versions_package_release")),
        sa.UniqueConstraint("package", "version", name=op.f("uq_package_versions_package_version")),
    )


def _create_programs() -> None:
    op.create_table(
        "programs",
        sa.Column("package_version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("argv", sa.Text(), nullable=False),
        sa.Column("run_as", sa.String(length=20), nullable=False),
        sa.Column("approvals", sa.Integer(), nullable=False),
        sa.Column("user_requestable", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["package_version"], ["package_versions.id"], name=op.f("fk_programs_package_version"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("package_version", "name", name=op.f("pk_programs")),
    )


def _create_version_platforms() -> None:
    op.create_table(
        "version_platforms",
        sa.Column("package_version", sa.Integer(), nullable=False),
        sa.Column("platform", sa.String(length=60), nullable=False),
        sa.ForeignKeyConstraint(
            ["package_version"],
            ["package_versions.id"],
            name=op.f("fk_version_platforms_package_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("package_version", "platform", name=op.f("pk_version_platforms")),
    )
