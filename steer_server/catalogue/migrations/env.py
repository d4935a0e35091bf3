"""What Alembic runs to apply the steps, in the transaction that `migrate.py` gives it."""

from alembic import context

from steer_server.catalogue.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
