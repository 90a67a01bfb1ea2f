"""Run by Alembic: migrates over the connection it is given, inside that connection's transaction."""

from __future__ import annotations

from alembic import context

from skyriver.adapters.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema="skyriver",
)
with context.begin_transaction():
    context.run_migrations()
