"""Tables of packages, their versions and programs, and of the signed metadata that makes them visible.

Serves step 2 (`site.packages`, `site.repository`) and step 5. Importing this module completes `tables.metadata`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from pcm.site.db.tables import Moment, metadata

packages = Table(
    "packages",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("team", String(40), nullable=False),
    Column("summary", String(200), nullable=False),
    Column("publisher", String(200), nullable=False),
    Column("created", Moment, nullable=False),
)

package_versions = Table(
    "package_versions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("package", Integer, ForeignKey("packages.id", ondelete="CASCADE"), nullable=False),
    Column("version", String(100), nullable=False),
    Column("release", BigInteger, nullable=False),
    Column("min_release", BigInteger, nullable=False),
    Column("signed_at", Moment, nullable=False),
    Column("published", Moment, nullable=False),
    Column("withdrawn", Moment),
    Column("manifest_path", String(400), nullable=False),
    Column("manifest_length", BigInteger, nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("files", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    UniqueConstraint("package", "version"),
    UniqueConstraint("package", "release"),
)

version_platforms = Table(
    "version_platforms",
    metadata,
    Column("package_version", Integer, ForeignKey("package_versions.id", ondelete="CASCADE"), primary_key=True),
    Column("platform", String(60), primary_key=True),
)

programs = Table(
    "programs",
    metadata,
    Column("package_version", Integer, ForeignKey("package_versions.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("argv", Text, nullable=False),  # JSON list, for showing
    Column("run_as", String(20), nullable=False),
    Column("approvals", Integer, nullable=False),
    Column("user_requestable", Boolean, nullable=False),
)

# Manifests and the policy: the target files of the package repository, by hash.
manifests = Table(
    "manifests",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("path", String(400), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("unwritten", Boolean, nullable=False, server_default=text("true")),
)

# The newest file of each role, and every root. What is unwritten is not yet on all distribution folders.
repository_files = Table(
    "repository_files",
    metadata,
    Column("repository", String(20), primary_key=True),
    Column("role", String(63), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("expires", Moment, nullable=False),
    Column("unwritten", Boolean, nullable=False, server_default=text("true")),
)
