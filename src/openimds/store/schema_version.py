"""Is the database at the newest step? Told without the tools that take steps, which cost a program 10 MiB."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.exc import DBAPIError

from openimds.store.engine import Store

_STEPS = Path(__file__).parent / "migrations" / "versions"


def is_newest(store: Store) -> bool:
    """False also when it has no tables yet or cannot be read: who then upgrades it finds out."""
    newest = max(step.name.partition("_")[0] for step in _STEPS.glob("[0-9]*.py"))
    try:
        with store.engine.connect() as connection:
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == newest
    except DBAPIError:
        return False
