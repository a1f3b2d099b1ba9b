"""The database of a newer release is refused with an error that names the versions."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from openimds.resources.errors import StoreUnavailable
from openimds.store import schema
from openimds.store.engine import Store
from openimds.store.schema_version import upgrade_store


def test_newer_tables_are_refused_and_stay_unchanged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/openimds.sqlite"
    upgrade_store(url)
    store = Store(url)
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match="the tables have version 9999 of a newer openimds"):
        upgrade_store(url)
    assert schema.current(store) == "9999"
    store.close()
