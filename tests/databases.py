"""SQLite databases for tests, copied from templates that each test process makes once."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from openimds.store import schema
from openimds.store.engine import Store

NAME = "openimds.sqlite"
CHEAP_ROUNDS = 4
"""bcrypt's lowest cost, for stores of tests."""


def migrated_store(folder: Path) -> Store:
    """A store on a new SQLite file in `folder`, with all tables and no rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_bytes(_migrated())
    return Store(f"sqlite:///{folder / NAME}")


def empty(store: Store) -> None:
    """Replaces the file of a `migrated_store` by the template."""
    store.close()
    file = Path(str(store.url.database))
    for ending in ("-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
    file.write_bytes(_migrated())


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/{NAME}")
        schema.upgrade(store)
        store.close()
        return Path(folder, NAME).read_bytes()
