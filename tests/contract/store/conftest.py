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

from .databases import postgresql, postgresql_missing


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    missing = postgresql_missing()
    if missing:
        pytest.skip(missing)
    # Not tmp_path: a unix socket's path has at most 107 characters, and the server's user must reach it.
    with tempfile.TemporaryDirectory(prefix="openimds-pg-") as folder, postgresql(Path(folder)) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_template(postgresql_url: str) -> str:
    """The name of a database with all tables and no rows. A copy takes a tenth of the time of the migrations."""
    name = "migrated"
    _run(postgresql_url, f"CREATE DATABASE {name}")
    store = Store(_with_database(postgresql_url, name))
    schema.upgrade(store)
    store.close()
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A migrated, empty store."""
    if request.param == "sqlite":
        made = migrated_store(tmp_path)
    else:
        url, template = request.getfixturevalue("postgresql_url"), request.getfixturevalue("migrated_template")
        _run(url, "DROP DATABASE IF EXISTS tested WITH (FORCE)", f"CREATE DATABASE tested TEMPLATE {template}")
        made = Store(_with_database(url, "tested"))
    yield made
    made.close()


def _with_database(url: str, name: str) -> str:
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


def _run(url: str, *statements: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()
