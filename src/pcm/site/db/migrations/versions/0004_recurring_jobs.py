"""Which jobs recur, and which time of them each assignment is about."""

import sqlalchemy as sa
from alembic import op

from pcm.site.db.tables import Moment

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Two columns more; no job that exists recurs."""
    op.add_column("jobs", sa.Column("recurrence", sa.String(length=400), nullable=True))
    op.add_column("assignments", sa.Column("occurrence", Moment(), nullable=True))
