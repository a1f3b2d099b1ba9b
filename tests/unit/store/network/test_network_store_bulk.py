"""The cost of a bulk request: it grows with the number of its resources and not faster.

A transaction has the write lock of the store, so its length is the waiting time of all other projects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.callers import network_caller

from openimds.resources.compute import COMPUTE_AGENT_BINARY, NewServer, NicRequest, Requester
from openimds.resources.errors import BadRequest
from openimds.resources.query import ListQuery
from openimds.store.compute import ComputeStore
from openimds.store.engine import Store, changes_after, utc_now
from openimds.store.models.compute import Flavor
from openimds.store.network import ipam
from openimds.store.network.agents import heartbeat
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


def test_cost_of_each_server_of_a_request_is_constant(store: Store, networks: NetworkStore) -> None:
    compute = ComputeStore(store)
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    networks.create("subnet", MEMBER, [{"network_id": network, "cidr": "10.0.0.0/16", "ip_version": 4}])
    started = {"agent_type": "Compute agent", "started_at": utc_now(), "configurations": {}}
    with store.write() as session:
        heartbeat(session, COMPUTE_AGENT_BINARY, "node1", started, utc_now())
        session.add(Flavor(id="1", name="f", ram_mib=1, vcpus=1, disk_gib=1))
    requester = Requester(user_id="u", project_id="p", request_id="req-1", rights=MEMBER.rights)

    def create(number: int) -> Counts:
        nics = (NicRequest(network_id=network),)
        new = NewServer(name="s", image_id=None, flavor_id="1", nics=nics, min_count=number, max_count=number)
        with counted(store) as counts:
            made = compute.servers.create(new, requester)
        assert made
        return counts

    few, many = create(FEW), create(MANY)
    for name in ("statements", "flushes", "examined"):
        assert getattr(many, name) / MANY <= getattr(few, name) / FEW, name


def _replaced(tags: Sequence[str], _before: Sequence[str]) -> Sequence[str]:
    return tags


def test_cost_of_each_tag_is_constant(store: Store, networks: NetworkStore) -> None:
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    costs = []
    for tags in (["one"], [f"tag{number}" for number in range(MANY)]):
        with counted(store) as counts:
            networks.change_tags("network", MEMBER, network, partial(_replaced, tags))
        costs.append((counts.statements, counts.flushes, counts.examined))
    assert costs[0] == costs[1]


SLAAC = {"ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}


def test_cost_of_a_subnet_with_automatic_addresses_is_constant(store: Store, networks: NetworkStore) -> None:
    """A new subnet gave one port after the other its address: 6.6 s for 2,450 ports."""
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    costs = []
    for number in range(3):
        networks.create("port", MEMBER, [{"network_id": network}] * MANY)
        body = {"network_id": network, "cidr": f"fd00:{number}::/64", **SLAAC}
        with counted(store) as made:
            subnet = networks.create("subnet", MEMBER, [body])[0]["id"]
        with counted(store) as deleted:
            networks.delete("subnet", MEMBER, subnet)
        costs.append([(of.statements, of.flushes, of.examined) for of in (made, deleted)])
    assert costs[0] == costs[1] == costs[2]


def test_ports_change_when_a_subnet_with_automatic_addresses_is_made_and_deleted(
    store: Store, networks: NetworkStore
) -> None:
    """The bulk statements record the changes of the ports, which agents and metadata documents depend on."""
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    networks.create("subnet", MEMBER, [{"network_id": network, "cidr": "10.0.0.0/24", "ip_version": 4}])
    before = [port["id"] for port in networks.create("port", MEMBER, [{"network_id": network}] * 3)]

    def addresses() -> list[list[str]]:
        shown = [networks.show("port", MEMBER, port_id) for port_id in before]
        assert len({port["revision_number"] for port in shown}) == 1
        return [[ip["ip_address"] for ip in port["fixed_ips"]] for port in shown]

    first = addresses()
    for change in ("create", "delete"):
        revision = store.revision()
        if change == "create":
            body = {"network_id": network, "cidr": "fd00::/64", **SLAAC}
            subnet = networks.create("subnet", MEMBER, [body])[0]["id"]
            second = addresses()
            assert [ips[0] for ips in second] == [ips[0] for ips in first]
            assert all(len(ips) == 2 and ips[1].startswith("fd00::") for ips in second)
        else:
            networks.delete("subnet", MEMBER, subnet)
            assert addresses() == first
        with store.read() as session:
            changed = changes_after(session, revision, ["port"])
        assert sorted(change.object_id for change in changed) == sorted(before)
        assert {networks.show("port", MEMBER, port_id)["revision_number"] for port_id in before} == {store.revision()}


@pytest.mark.parametrize("entry", [{"subnet_id": "v4"}, {"ip_address": ""}], ids=["subnet", "explicit"])
def test_cost_of_each_address_of_a_port_is_constant(
    store: Store, networks: NetworkStore, entry: dict[str, str]
) -> None:
    """Each address of a pool compared itself with all that the request had chosen before, with one query for each."""
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    subnet = networks.create("subnet", MEMBER, [{"network_id": network, "cidr": "10.0.0.0/16", "ip_version": 4}])[0][
        "id"
    ]
    costs = []
    for part, number in enumerate((FEW, MANY)):
        given = [
            {"subnet_id": subnet} if "subnet_id" in entry else {"ip_address": f"10.0.{part + 1}.{at + 1}"}
            for at in range(number)
        ]
        with counted(store) as counts:
            made = networks.create("port", MEMBER, [{"network_id": network, "fixed_ips": given}])[0]
        assert len({ip["ip_address"] for ip in made["fixed_ips"]}) == number
        costs.append(counts.statements / number)
    assert costs[1] <= costs[0]


def test_pool_yields_no_address_that_the_same_request_names(networks: NetworkStore) -> None:
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    subnet = networks.create("subnet", MEMBER, [{"network_id": network, "cidr": "10.0.0.0/29", "ip_version": 4}])[0][
        "id"
    ]
    given = [{"subnet_id": subnet}, {"ip_address": "10.0.0.2"}, {"subnet_id": subnet}, {"ip_address": "10.0.0.4"}]
    made = networks.create("port", MEMBER, [{"network_id": network, "fixed_ips": given}])[0]
    assert [ip["ip_address"] for ip in made["fixed_ips"]] == ["10.0.0.3", "10.0.0.2", "10.0.0.5", "10.0.0.4"]


def test_request_for_too_many_addresses_is_rejected(store: Store, networks: NetworkStore) -> None:
    """Ports times subnets with automatic addresses bound the time for which the request has the write lock."""
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    subnets = [{"network_id": network, "cidr": f"fd00:{number:x}::/64", **SLAAC} for number in range(11)]
    networks.create("subnet", MEMBER, subnets)
    with pytest.raises(BadRequest, match="more than 1000 addresses") as refused:
        networks.create("port", MEMBER, [{"network_id": network}] * 100)
    assert refused.value.field == "fixed_ips"
    assert not networks.list("port", MEMBER, ListQuery()).items
    assert len(networks.create("port", MEMBER, [{"network_id": network}] * 90)) == 90


def test_network_with_too_many_ports_gets_no_subnet_with_automatic_addresses(
    networks: NetworkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipam, "MAX_AUTOMATIC_ADDRESSES", 5)
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    networks.create("port", MEMBER, [{"network_id": network}] * 3)
    bodies = [{"network_id": network, "cidr": f"fd00:{number}::/64", **SLAAC} for number in range(2)]
    with pytest.raises(BadRequest, match="more than 5 addresses") as refused:
        networks.create("subnet", MEMBER, bodies)
    assert refused.value.field == "ipv6_address_mode"
    networks.create("subnet", MEMBER, bodies[:1])


def test_check_of_a_dns_name_does_not_read_all_ports_of_the_network(store: Store) -> None:
    """100 names on a shared network with 20,000 ports of another project took 1.6 s."""
    if not store.is_sqlite:
        pytest.skip("PostgreSQL chooses the plan by the number of rows")
    asked = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *event: asked.append((event[2], event[3])))
    networks = NetworkStore(store)
    network = networks.create("network", MEMBER, [{"name": "n"}])[0]["id"]
    networks.create("port", MEMBER, [{"network_id": network, "dns_name": "web"}])
    statement, parameters = next(each for each in asked if "rtrim" in each[0])
    with store.engine.connect() as connection:
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
    assert "ix_ports_dns_name (network_id=? AND <expr>=?)" in str(plan)


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
