"""Migration 0004 on a store of the earlier version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from structlog.testing import capture_logs

from openimds.store import schema
from openimds.store.engine import Store

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared": {"shared": True},
    "external": {"external": True},
    "flat": {"provider_network_type": "flat"},
}


@pytest.fixture
def old_store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/openimds.sqlite")
    with store.engine.connect() as connection:
        command.upgrade(schema._config(connection), "0003")
        add(connection, "servers", id="locked", locked=True)
        add(connection, "servers", id="open", locked=False)
        for network, attributes in NETWORKS.items():
            add(connection, "networks", id=network, **{"provider_network_type": "local"} | attributes)
            tags = json.dumps(["a", f"metadata-provider=of-{network}"])
            add(connection, "subnets", id=f"subnet of {network}", network_id=network, project_id="p1", tags=tags)
        add(connection, "subnets", id="untagged", network_id="plain", tags="[]")
        connection.commit()
    yield store
    store.close()


def add(connection: sa.Connection, table: str, **values: Any) -> None:
    """Inserts a row. The other columns that are not nullable get `0`, which SQLite accepts for every type."""
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


def test_provider_tags_that_members_could_set_are_logged(old_store: Store) -> None:
    with capture_logs() as logs:
        schema.upgrade(old_store)
        schema.upgrade(old_store)
    (found,) = [entry for entry in logs if entry["event"] == "metadata provider tag found on a network of a project"]
    assert (found["subnet_id"], found["project_id"], found["tag"]) == (
        "subnet of plain",
        "p1",
        "metadata-provider=of-plain",
    )
