"""Is the database at the newest step? Told without the tools that take steps, which cost a program 35 MiB."""

from __future__ import annotations

from pathlib import Path

from openimds.resources.errors import StoreUnavailable
from openimds.store.raw.database import Database
from openimds.store.raw.statements import Query

_STEPS = Path(__file__).parent / "migrations" / "versions"
_STEP = Query(("version_num",), "alembic_version")


def is_newest(database: Database) -> bool:
    """False also when it has no tables yet or cannot be read: who then upgrades it finds out."""
    newest = max(step.name.partition("_")[0] for step in _STEPS.glob("[0-9]*.py"))
    try:
        with database.read() as transaction:
            return [tuple(row) for row in transaction.rows(_STEP)] == [(newest,)]
    except StoreUnavailable:
        return False


def upgrade_store(url: str) -> None:
    """Bring it to the newest step, with all that this takes. Raises StoreUnavailable."""
    from openimds.store import schema  # noqa: PLC0415 - see above
    from openimds.store.engine import Store  # noqa: PLC0415

    store = Store(url)
    try:
        schema.upgrade(store)
    finally:
        store.close()
