"""A store on a fresh SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.databases import migrated_store

from openimds.store.engine import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store with migrated tables."""
    made = migrated_store(tmp_path)
    yield made
    made.close()
