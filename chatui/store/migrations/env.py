"""What Alembic calls: runs the migrations on the connection that database.py hands over. Knows no settings."""

from alembic import context

from chatui.store.database import REVISIONS

context.configure(connection=context.config.attributes["connection"], version_table=REVISIONS)
with context.begin_transaction():
    context.run_migrations()
