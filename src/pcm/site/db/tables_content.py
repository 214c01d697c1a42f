"""Tables of what lies on which distribution server, and of what the site still makes smaller.

Serves step 2 (`site.delivery`, `site.improving`). Every attempt that is still to come is a row: nothing is forgotten at a
restart, nothing is tried twice at once, and everybody can see why something is not there yet. Importing this module
completes `tables.metadata`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)

from pcm.site.db.tables import Moment, metadata

# One row for each distribution server that the site writes: how its metadata stands, and its next attempt.
distribution_states = Table(
    "distribution_states",
    metadata,
    Column("server", String(63), primary_key=True),
    Column("timestamp", BigInteger, nullable=False, server_default="0"),  # version of timestamp.json that stands there
    Column("attempts", Integer, nullable=False, server_default="0"),  # that failed, one after another
    Column("next_try", Moment),
    Column("error_code", String(80), nullable=False, server_default=""),
    Column("error", Text, nullable=False, server_default=""),
    Column("away_since", Moment),
    Column("succeeded", Moment),  # when everything stood there last
)

# One row for each version on each server. `pending`: something of it is to be brought (content, or what was made smaller).
deliveries = Table(
    "deliveries",
    metadata,
    Column("server", String(63), primary_key=True),
    Column("package_version", Integer, ForeignKey("package_versions.id", ondelete="CASCADE"), primary_key=True),
    Column("complete", Moment),  # since when all of its content stands there
    Column("pending", Boolean, nullable=False, server_default=text("true")),
    Column(
        "wanted", Integer, nullable=False, server_default="1"
    ),  # counts what was asked for, so that nothing is missed
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_try", Moment),
    Column("error_code", String(80), nullable=False, server_default=""),
    Column("error", Text, nullable=False, server_default=""),
    Column("files", Integer, nullable=False, server_default="0"),  # brought there
    Column("bytes", BigInteger, nullable=False, server_default="0"),
    Column("changed", Moment, nullable=False),
    Index("ix_deliveries_pending", "server", sqlite_where=text("pending"), postgresql_where=text("pending")),
)

# One row for each version that is to be made smaller: bundles, patches, objects at a higher level.
improvements = Table(
    "improvements",
    metadata,
    Column(
        "package_version",
        Integer,
        ForeignKey("package_versions.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_try", Moment),
    Column("started", Moment),
    Column("ended", Moment),
    Column("error_code", String(80), nullable=False, server_default=""),
    Column("error", Text, nullable=False, server_default=""),
    Column("objects_before", BigInteger, nullable=False, server_default="0"),  # bytes of its objects, packed
    Column("objects_after", BigInteger, nullable=False, server_default="0"),
    Column("whole", BigInteger, nullable=False, server_default="0"),  # bytes of whole.bundle
    Column("patches", BigInteger, nullable=False, server_default="0"),  # bytes of the bundle against the release before
    Column("bundles", Integer, nullable=False, server_default="0"),
    CheckConstraint("state in ('waiting', 'running', 'done', 'failed', 'given_up')", name="state"),
)
