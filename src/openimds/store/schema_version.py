"""The check of the tables' version without Alembic, which costs a process 35 MiB of memory."""

from __future__ import annotations

from pathlib import Path

from openimds.resources.errors import StoreUnavailable
from openimds.store.raw.database import Database
from openimds.store.raw.statements import Query

_STEPS = Path(__file__).parent / "migrations" / "versions"
_STEP = Query(("version_num",), "alembic_version")


def is_newest(database: Database) -> bool:
    """Whether the tables have the newest version. False if the database has no tables or cannot be read: an upgrade then
    creates them or raises the error.
    """
    newest = max(step.name.partition("_")[0] for step in _STEPS.glob("[0-9]*.py"))
    try:
        with database.read() as transaction:
            return [tuple(row) for row in transaction.rows(_STEP)] == [(newest,)]
    except StoreUnavailable:
        return False


def upgrade_store(url: str) -> None:
    """Upgrades the tables to the newest version. Imports Alembic. Raises StoreUnavailable."""
    from openimds.store import schema  # noqa: PLC0415 - see above
    from openimds.store.engine import Store  # noqa: PLC0415

    store = Store(url)
    try:
        schema.upgrade(store)
    finally:
        store.close()
