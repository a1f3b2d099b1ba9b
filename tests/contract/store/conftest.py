"""The fixture `store`: each test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.databases import migrated_store

from openimds.store import schema
from openimds.store.engine import Store
from openimds.store.models.base import Base

from .databases import postgresql, postgresql_missing


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    missing = postgresql_missing()
    if missing:
        pytest.skip(missing)
    # Not tmp_path: a unix socket's path has at most 107 characters, and the server's user must reach it.
    with tempfile.TemporaryDirectory(prefix="openimds-pg-") as folder, postgresql(Path(folder)) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A migrated, empty store."""
    if request.param == "sqlite":
        made = migrated_store(tmp_path)
    else:
        made = Store(request.getfixturevalue("postgresql_url"))
        _empty(made)
        schema.upgrade(made)
    yield made
    made.close()


def _empty(store: Store) -> None:
    with store.engine.begin() as connection:
        Base.metadata.drop_all(connection)
        connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
