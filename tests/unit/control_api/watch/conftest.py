"""The fixtures of the network service, with a store, an application and a change notifier for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from tests.databases import migrated_store
from tests.unit.control_api.network.conftest import agent, control_app, http, member, operator

from openimds.control_api.watch.long_poll import ChangeNotifier
from openimds.store.engine import Store
from openimds.store.watch_store import WatchStore

__all__ = ["agent", "http", "member", "operator"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = migrated_store(tmp_path)
    yield made
    made.close()


@pytest.fixture
def bell(store: Store) -> ChangeNotifier:
    return ChangeNotifier(WatchStore(store))


@pytest.fixture
def app(store: Store, bell: ChangeNotifier) -> FastAPI:
    return control_app(store, bell)
