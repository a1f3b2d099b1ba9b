"""Alembic's environment. The migrations run on the connection that `openimds.store.schema` opened."""

from __future__ import annotations

from alembic import context

from openimds.store.models.base import Base


def run(connection: object) -> None:
    """Runs the migrations in one transaction."""
    # SQLite cannot alter a column in place: batch mode copies the table (Alembic, "Running Batch Migrations").
    context.configure(
        connection=connection,  # type: ignore[arg-type]
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
