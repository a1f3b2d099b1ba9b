"""The fixtures of the network service, with an application for each module and a change notifier for each test."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from tests.unit.control_api.network.conftest import agent, control_app, http, member, module_store, operator, store

from openimds.control_api.watch.long_poll import ChangeNotifier
from openimds.store.engine import Store
from openimds.store.watch_store import WatchStore

__all__ = ["agent", "http", "member", "module_store", "operator", "store"]


class CurrentNotifier:
    """Passes all calls to the notifier of the running test, because a notifier belongs to one event loop."""

    current: ChangeNotifier

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)


@pytest.fixture(scope="module")
def notifier() -> CurrentNotifier:
    return CurrentNotifier()


@pytest.fixture(scope="module")
def app(module_store: Store, notifier: CurrentNotifier) -> FastAPI:
    return control_app(module_store, notifier)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def bell(store: Store, notifier: CurrentNotifier) -> ChangeNotifier:
    notifier.current = ChangeNotifier(WatchStore(store))
    return notifier.current
