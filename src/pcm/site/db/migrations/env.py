"""Alembic's entry: runs the migrations on the connection that `pcm.site.db.upgrade` has opened."""

from alembic import context

from pcm.site.db.database import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()
