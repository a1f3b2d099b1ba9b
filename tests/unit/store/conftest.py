"""A store on a fresh SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openimds.store import schema
from openimds.store.engine import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Migrated and empty."""
    made = Store(f"sqlite:///{tmp_path}/openimds.sqlite")
    schema.upgrade(made)
    yield made
    made.close()
