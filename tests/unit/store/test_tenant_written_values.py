"""Step 0004 on a store of the version before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from openimds.store import schema
from openimds.store.engine import Store


@pytest.fixture
def old_store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/openimds.sqlite")
    with store.engine.connect() as connection:
        command.upgrade(schema._config(connection), "0003")
        add(connection, "servers", id="locked", locked=True)
        add(connection, "servers", id="open", locked=False)
        connection.commit()
    yield store
    store.close()


def add(connection: sa.Connection, table: str, **values: Any) -> None:
    """Insert a row. Columns that are not named and must not be null get `0`, which SQLite takes for every type."""
    columns = connection.execute(sa.text(f"PRAGMA table_info({table})")).mappings()
    row = {column["name"]: "0" for column in columns if column["notnull"]} | values
    names = ", ".join(f'"{name}"' for name in row)
    places = ", ".join(f":{name}" for name in row)
    connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({places})"), row)


def test_earlier_locks_belong_to_the_owner(old_store: Store) -> None:
    schema.upgrade(old_store)
    with old_store.engine.connect() as connection:
        locks = connection.execute(sa.text("SELECT id, locked_by FROM servers")).all()
    assert {row.id: row.locked_by for row in locks} == {"locked": "owner", "open": None}
