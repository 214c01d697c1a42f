"""How many entries a client's ledger has, and whether its past was rewritten."""

import sqlalchemy as sa
from alembic import op

from pcm.site.db.tables import Moment

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Three columns more; of a head without a number nothing can be followed, so the next report begins anew."""
    op.add_column("clients", sa.Column("ledger_total", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("clients", sa.Column("ledger_broken", Moment(), nullable=True))
    op.add_column("clients", sa.Column("ledger_note", sa.Text(), server_default="", nullable=False))
