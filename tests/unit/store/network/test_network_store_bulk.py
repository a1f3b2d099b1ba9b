"""The cost of a bulk request: it grows with the number of its resources and not faster.

A transaction has the write lock of the store, so its length is the waiting time of all other projects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.callers import network_caller

from openimds.store.engine import Store
from openimds.store.network.network_store import NetworkStore

FEW, MANY = 10, 40
MEMBER, ADMIN = network_caller("p"), network_caller("p", "admin")


class Counts:
    """Statements, flushes, and objects that flushes examine."""

    def __init__(self) -> None:
        self.statements = self.flushes = self.examined = 0


@contextmanager
def counted(store: Store) -> Iterator[Counts]:
    counts = Counts()

    def statement(*_: Any) -> None:
        counts.statements += 1

    def flush(session: Session, *_: Any) -> None:
        counts.flushes += 1
        counts.examined += len(session.new) + len(session.dirty)

    sa.event.listen(store.engine, "before_cursor_execute", statement)
    sa.event.listen(Session, "after_flush", flush)
    try:
        yield counts
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", statement)
        sa.event.remove(Session, "after_flush", flush)


@pytest.fixture
def networks(store: Store) -> NetworkStore:
    return NetworkStore(store)


BODIES: dict[str, Callable[[str, str, int], dict[str, Any]]] = {
    "network": lambda _network, _external, number: {"name": f"n{number}"},
    "subnet": lambda network, _external, number: {
        "network_id": network,
        "cidr": f"10.9.{number}.0/24",
        "ip_version": 4,
    },
    "port": lambda network, _external, _number: {"network_id": network},
    "router": lambda _network, external, _number: {"external_gateway_info": {"network_id": external}},
    "floatingip": lambda _network, external, _number: {"floating_network_id": external},
    "security_group": lambda _network, _external, number: {"name": f"g{number}"},
}


@pytest.mark.parametrize("kind", BODIES)
def test_cost_of_each_resource_of_a_bulk_request_is_constant(store: Store, networks: NetworkStore, kind: str) -> None:
    """Flushes examined every object that the transaction had written before, so that 500 ports took 14 s."""
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    external = networks.create("network", ADMIN, [{"name": "x", "router:external": True}])[0]["id"]
    for of, first in ((network, "10.0.0.0/16"), (network, "fd00::/64"), (external, "172.16.0.0/16")):
        body = {"network_id": of, "cidr": first, "ip_version": 6 if ":" in first else 4}
        networks.create("subnet", ADMIN, [body])
    bodies = [BODIES[kind](network, external, number) for number in range(FEW + MANY)]
    with counted(store) as few:
        networks.create(kind, MEMBER, bodies[:FEW])
    with counted(store) as many:
        networks.create(kind, MEMBER, bodies[FEW:])
    for name in ("statements", "flushes", "examined"):
        assert getattr(many, name) / MANY <= getattr(few, name) / FEW, name


def test_freed_address_is_found_in_the_same_transaction(store: Store, networks: NetworkStore) -> None:
    """The search remembers in a transaction where it found the last free address."""
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    subnet = networks.create("subnet", MEMBER, [{"network_id": network, "cidr": "10.0.0.0/29", "ip_version": 4}])[0][
        "id"
    ]
    made = networks.create("port", MEMBER, [{"network_id": network}] * 4)
    changed = networks.update("port", MEMBER, made[0]["id"], {"fixed_ips": [{"ip_address": "10.0.0.6"}]})
    assert [ip["ip_address"] for ip in changed["fixed_ips"]] == ["10.0.0.6"]
    assert networks.create("port", MEMBER, [{"network_id": network}])[0]["fixed_ips"][0] == {
        "subnet_id": subnet,
        "ip_address": "10.0.0.2",
    }
