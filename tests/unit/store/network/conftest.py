"""The network store on a fresh database, with helpers for frequent calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.callers import network_caller

from openimds.resources.caller import SYSTEM, Caller
from openimds.resources.query import ListQuery
from openimds.store.engine import Store
from openimds.store.network.network_store import NetworkStore

PROJECT = "11111111111111111111111111111111"
OTHER_PROJECT = "22222222222222222222222222222222"


@dataclass
class Cloud:
    """The network store with one caller."""

    store: Store
    caller: Caller = field(default_factory=lambda: network_caller(PROJECT))

    @property
    def network(self) -> NetworkStore:
        return NetworkStore(self.store)

    def as_(self, caller: Caller) -> Cloud:
        return Cloud(self.store, caller)

    def make(self, kind: str, **attributes: Any) -> dict[str, Any]:
        named = {name.replace("__", ":"): value for name, value in attributes.items()}
        return self.network.create(kind, self.caller, [named])[0]

    def show(self, kind: str, resource_id: str) -> dict[str, Any]:
        return self.network.show(kind, self.caller, resource_id)

    def change(self, kind: str, resource_id: str, **attributes: Any) -> dict[str, Any]:
        named = {name.replace("__", ":"): value for name, value in attributes.items()}
        return self.network.update(kind, self.caller, resource_id, named)

    def remove(self, kind: str, resource_id: str) -> None:
        self.network.delete(kind, self.caller, resource_id)

    def names(self, kind: str, **filters: str | list[str]) -> list[str]:
        given = {
            name.replace("__", ":"): tuple(value) if isinstance(value, list) else (value,)
            for name, value in filters.items()
        }
        page = self.network.list(kind, self.caller, ListQuery(filters=given, sort=(("name", False),)))
        return [item["name"] for item in page.items]

    def net(self, cidr: str = "10.0.0.0/24", **subnet: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """A network with one subnet."""
        network = self.make("network", name="net")
        return network, self.make("subnet", network_id=network["id"], cidr=cidr, **subnet)

    def outside(self, cidr: str = "203.0.113.0/24") -> tuple[dict[str, Any], dict[str, Any]]:
        """An external network of the operator's, with a subnet."""
        operator = self.as_(network_caller(OTHER_PROJECT, "admin"))
        network = operator.make("network", name="public", router__external=True)
        return network, operator.make("subnet", network_id=network["id"], cidr=cidr, enable_dhcp=False)


@pytest.fixture
def cloud(store: Store) -> Cloud:
    """The store with a member of a project as the caller."""
    return Cloud(store)


@pytest.fixture
def stranger(cloud: Cloud) -> Cloud:
    """The store with a member of another project as the caller."""
    return cloud.as_(network_caller(OTHER_PROJECT))


@pytest.fixture
def operator(cloud: Cloud) -> Cloud:
    """The store with an administrator without a project as the caller."""
    return cloud.as_(SYSTEM)
