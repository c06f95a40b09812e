"""Run by Alembic: migrates on the connection of migrating.upgrade(). Knows no settings."""

from alembic import context

from chatui.store.database import REVISIONS

context.configure(connection=context.config.attributes["connection"], version_table=REVISIONS)
with context.begin_transaction():
    context.run_migrations()
