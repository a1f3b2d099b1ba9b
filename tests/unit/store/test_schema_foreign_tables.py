"""The database of another service is refused, and stays as it was."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from openimds.resources.errors import StoreUnavailable
from openimds.store import schema
from openimds.store.engine import Store
from openimds.store.schema_version import upgrade_store

NOVA = ("instances", "instance_extra", "migrations")
NEUTRON = ("networks", "ports", "networksegments")
KEYSTONE = ("project", "local_user")
VERSIONS = {NOVA: ("960aac0e09ea",), NEUTRON: ("5c85685d616d", "89c58a70ceba"), KEYSTONE: ("27e647c0fad4",)}


def fill(file: Path, tables: tuple[str, ...], versions: tuple[str, ...] | None) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        for table in tables:
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY AUTOINCREMENT)")
            connection.execute(f"INSERT INTO {table} DEFAULT VALUES")
        if versions is not None:
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
            connection.executemany("INSERT INTO alembic_version VALUES (?)", [(version,) for version in versions])


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(f"sqlite:///{tmp_path}/other.sqlite")
    yield found
    found.close()


@pytest.mark.parametrize(
    ("tables", "versions", "sentence"),
    [
        (NOVA, VERSIONS[NOVA], r"tables of nova \(instance_extra, instances, …\)"),
        (NEUTRON, VERSIONS[NEUTRON], r"tables of neutron \(networksegments, …\)"),
        (KEYSTONE, VERSIONS[KEYSTONE], r"tables of keystone \(local_user, …\)"),
        (NOVA, None, "tables of nova"),
        (NOVA, (), "tables of nova"),
        (("wp_posts",), None, r"tables of another program \(wp_posts, …\)"),
    ],
)
def test_database_of_another_service_is_refused_and_unchanged(
    tmp_path: Path, store: Store, tables: tuple[str, ...], versions: tuple[str, ...] | None, sentence: str
) -> None:
    file = tmp_path / "other.sqlite"
    fill(file, tables, versions)
    before = digest(file)
    for attempt in (lambda: schema.upgrade(store), lambda: schema.current(store), lambda: schema.is_empty(store)):
        with pytest.raises(StoreUnavailable, match=sentence) as refused:
            attempt()
        assert "create an empty database for openimds" in refused.value.message
    with pytest.raises(StoreUnavailable, match=sentence):
        upgrade_store(f"sqlite:///{file}")
    assert digest(file) == before
    assert [path.name for path in tmp_path.iterdir()] == ["other.sqlite"]


def test_foreign_database_in_wal_mode_is_refused(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "other.sqlite"
    fill(file, NOVA, VERSIONS[NOVA])
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    with pytest.raises(StoreUnavailable, match="tables of nova"):
        schema.upgrade(store)
    with closing(sqlite3.connect(file)) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert names == {*NOVA, "alembic_version", "sqlite_sequence"}


def test_own_database_with_a_further_table_is_upgraded(store: Store) -> None:
    schema.upgrade(store)
    with store.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE notes (id INTEGER)"))
    schema.upgrade(store)
    assert schema.current(store) == schema.newest()


def test_own_database_that_was_copied_into_a_file_without_wal_mode_is_opened(tmp_path: Path) -> None:
    upgrade_store(f"sqlite:///{tmp_path}/openimds.sqlite")
    with closing(sqlite3.connect(tmp_path / "openimds.sqlite")) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "copy.sqlite"),))
    store = Store(f"sqlite:///{tmp_path}/copy.sqlite")
    assert schema.current(store) == schema.newest()
    store.close()
