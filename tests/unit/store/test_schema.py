"""Migrations create the tables of models/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from openimds.resources.errors import StoreUnavailable
from openimds.store import schema
from openimds.store.engine import Store
from openimds.store.models.base import Base


@pytest.fixture
def empty_store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/new folder/s.sqlite")
    yield store
    store.close()


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_migrated_tables_equal_the_models(empty_store: Store) -> None:
    schema.upgrade(empty_store)
    with empty_store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrated_indexes_equal_the_models(empty_store: Store) -> None:
    """The comparison above skips indexes of expressions."""
    schema.upgrade(empty_store)
    indexes = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'ports' ORDER BY name")
    fresh = sa.create_engine("sqlite://")
    Base.metadata.create_all(fresh)
    with empty_store.engine.connect() as migrated, fresh.connect() as made:
        assert migrated.execute(indexes).all() == made.execute(indexes).all()
    fresh.dispose()


def test_upgrade_is_idempotent(empty_store: Store, tmp_path: Path) -> None:
    (tmp_path / "new folder").mkdir()
    assert schema.current(empty_store) is None
    schema.upgrade(empty_store)
    schema.upgrade(empty_store)
    assert schema.current(empty_store) == schema.newest()
    assert empty_store.revision() == 0


def test_sqlite_is_in_wal_mode_with_foreign_keys(empty_store: Store) -> None:
    schema.upgrade(empty_store)
    with empty_store.read() as session:
        assert session.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(sa.text("PRAGMA foreign_keys")) == 1


def test_error_of_an_invalid_folder_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=r"folder of .*file/s\.sqlite cannot be created"):
        schema.upgrade(Store(f"sqlite:///{tmp_path}/file/s.sqlite"))


def test_error_of_a_file_that_is_no_database_names_it(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_text("this is no database" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        schema.upgrade(Store(f"sqlite:///{tmp_path}/s.sqlite"))
