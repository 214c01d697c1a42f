"""Bringing a database to this program's schema, with Alembic, from whatever released version it has.

Serves `pcm site init` and the start of `pcm site serve`, before anything else reads the database. It refuses a
database that a newer program has changed; it never goes back.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from pcm.model.errors import StoreError
from pcm.site.db.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Apply every migration that is missing, in one transaction.

    Raises:
        StoreError: `store.newer`: the database belongs to a newer program; see `Database.write`.
    """
    configuration = Config()
    configuration.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(configuration).walk_revisions()}
    with database.write() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise StoreError(
                f"The database has schema {current}, which this program does not know: it is newer. Update the site.",
                code="store.newer",
            )
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "head")
