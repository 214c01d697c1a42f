"""As whom each run ran: one order may run once for each user of a client."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """One column more; what was reported until now is taken for the system's."""
    op.add_column("results", sa.Column("run_as", sa.String(length=256), nullable=False, server_default=""))
