"""The client of a request: the mirror is used first, then one query, and a former owner never matches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests import builders

from openimds.agents.metadata.lookup.resolver import HOLD_SECONDS, ClientOrigin, LookupPolicy, PortResolver
from openimds.agents.metadata.protocols import ControlAwayError
from openimds.guest_identity.addresses import Address
from openimds.guest_identity.port_index import AddressIndex
from openimds.guest_identity.port_match import NoSinglePort, PortNotReady
from openimds.resources.network import FixedIP, Port, Subnet

NETWORK = "network:net-1"
ROUTER = "router:r1"
FIVE = "10.0.0.5"
SUBNETS = {"s": Subnet(id="s", network_id="net-1", project_id="t", cidr="10.0.0.0/24")}


def port(port_id: str, ip: str = builders.ADDRESS, **fields: Any) -> Port:
    return builders.port(
        port_id, "fa:16:3e:54:93:88", ip, **({"network": "net-1", "project_id": "t", "device_id": "vm"} | fields)
    )


@dataclass
class World:
    """The ports of the mirror, the ports of the control API, and the neighbour table of the namespaces."""

    mirrored: dict[str, Port] = field(default_factory=dict)
    subnets: dict[str, Subnet] = field(default_factory=dict)
    real: list[Port] = field(default_factory=list)
    connected: bool = True
    age_seconds: float = 0
    unavailable: bool = False
    queries: list[Mapping[str, str | Sequence[str]]] = field(default_factory=list)
    neighbours: dict[str, str] = field(default_factory=dict)
    revision: int = 1
    now: float = 100.0
    held: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.held.set()

    def view(self) -> World:
        """Returns itself: `ports` and `subnets` are the view's."""
        return self

    @property
    def ports(self) -> dict[str, Port]:
        return self.mirrored

    def subscribe(self, callback: Callable[[Any], None]) -> None: ...

    def clock(self) -> float:
        return self.now

    def mac_of(self, _network_id: str | None, _router_id: str | None, address: Address) -> str | None:
        return self.neighbours.get(str(address))


@dataclass
class Neutron:
    world: World

    def ports(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        self.world.held.wait(5)
        self.world.queries.append(filters)
        if self.world.unavailable:
            raise ControlAwayError("the control API is unavailable")
        return [each for each in self.world.real if passes(each, filters)]

    def subnets(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        return [each for each in self.world.subnets.values() if each.network_id in filters["network_id"]]


def passes(each: Port, filters: Mapping[str, str | Sequence[str]]) -> bool:
    wanted_ip = str(filters.get("fixed_ips", "")).removeprefix("ip_address=")
    return (
        ("network_id" not in filters or each.network_id in filters["network_id"])
        and ("device_id" not in filters or each.device_id == filters["device_id"])
        and ("mac_address" not in filters or each.mac_address == filters["mac_address"])
        and (not wanted_ip or wanted_ip in each.ip_addresses)
    )


async def found(world: World, listener: str, address: str, times: int = 1) -> list[str]:
    policy = LookupPolicy(hold_seconds=0.5 if world.unavailable else HOLD_SECONDS)
    with ThreadPoolExecutor(2) as executor:
        resolver = PortResolver(
            AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock, policy=policy
        )
        bindings = asyncio.gather(*(resolver.resolve(ClientOrigin(listener, address)) for _ in range(times)))
        await asyncio.sleep(0)
        world.held.set()
        return [each.port.id for each in await bindings]


def find(world: World, listener: str = NETWORK, address: str = FIVE, times: int = 1) -> list[str]:
    return asyncio.run(found(world, listener, address, times))


def test_a_port_of_the_mirror_needs_no_query():
    world = World(mirrored={"p1": port("p1")})
    assert find(world) == ["p1"]
    assert world.queries == []


def test_a_client_behind_a_router_is_found():
    inner = port("i", "10.0.0.1", device_id="r1", device_owner="network:router_interface")
    world = World(mirrored={"p1": port("p1"), "i": inner}, subnets=SUBNETS)
    assert find(world, ROUTER) == ["p1"]


def test_a_port_that_the_mirror_does_not_have_is_found_by_a_query():
    world = World(real=[port("p1")])
    assert find(world) == ["p1"]
    assert world.queries == [{"network_id": ["net-1"], "fixed_ips": "ip_address=10.0.0.5"}]


def test_a_query_behind_a_router_reads_its_networks_first():
    inner = port("i", "10.0.0.1", device_id="r1", device_owner="network:router_interface")
    world = World(real=[inner, port("p1"), port("p2", network="net-2")], subnets=SUBNETS)
    assert find(world, ROUTER) == ["p1"]
    assert world.queries[0] == {"device_id": "r1"}


def test_a_router_without_networks_finds_no_port_instead_of_all_ports():
    world = World(real=[port("p1")])
    with pytest.raises(NoSinglePort):
        find(world, ROUTER)
    assert world.queries == [{"device_id": "r1"}]


def test_a_request_without_network_and_router_has_no_port():
    world = World(mirrored={"p1": port("p1")}, real=[port("p1")])
    with pytest.raises(NoSinglePort):
        find(world, "")
    assert world.queries == []


def test_equal_concurrent_queries_are_sent_once():
    world = World(real=[port("p1")])
    world.held.clear()
    assert find(world, times=20) == ["p1"] * 20
    assert len(world.queries) == 1


def test_no_port_and_several_ports_are_different_outcomes():
    with pytest.raises(NoSinglePort) as none:
        find(World())
    assert none.value.outcome == "none"
    with pytest.raises(NoSinglePort, match="p1, p2") as several:
        find(World(mirrored={"p1": port("p1"), "p2": port("p2")}))
    assert several.value.outcome == "several"


def test_while_the_control_api_is_unavailable_mirrored_ports_are_found_and_others_are_not_ready():
    world = World(mirrored={"p1": port("p1")}, connected=False, unavailable=True)
    assert find(world) == ["p1"]
    with pytest.raises(PortNotReady):
        find(world, address="10.0.0.6")


def test_ports_of_a_disconnected_mirror_are_queried_again():
    world = World(mirrored={"p1": port("p1")}, real=[port("p2")], connected=False)
    assert find(world) == ["p2"]


async def test_a_moved_address_never_resolves_to_its_former_owner():
    world = World(mirrored={"p1": port("p1")})
    with ThreadPoolExecutor(1) as executor:
        resolver = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        assert (await resolver.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p1"
        world.mirrored = {"p2": port("p2")}
        assert (await resolver.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p2"
        world.mirrored = {}
        with pytest.raises(NoSinglePort):
            await resolver.resolve(ClientOrigin(NETWORK, FIVE))


async def test_without_a_watch_no_port_is_cached_for_one_second_and_a_port_for_two():
    world = World(connected=False)
    with ThreadPoolExecutor(1) as executor:
        resolver = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        for _ in range(3):
            with pytest.raises(NoSinglePort):
                await resolver.resolve(ClientOrigin(NETWORK, FIVE))
        assert len(world.queries) == 1
        world.real = [port("p1")]
        world.now += 1.1
        for _ in range(3):
            assert (await resolver.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p1"
        assert len(world.queries) == 2
        world.real = [port("p2")]
        world.now += 2.1
        assert (await resolver.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p2"


async def test_a_cancelled_request_does_not_cancel_the_query_of_another_request():
    world = World(real=[port("p1")])
    world.held.clear()
    with ThreadPoolExecutor(1) as executor:
        resolver = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        first = asyncio.ensure_future(resolver.resolve(ClientOrigin(NETWORK, FIVE)))
        second = asyncio.ensure_future(resolver.resolve(ClientOrigin(NETWORK, FIVE)))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        world.held.set()
        assert (await second).port.id == "p1"
        assert len(world.queries) == 1


def test_a_link_local_client_is_found_by_the_mac_in_its_address_or_in_the_neighbour_table():
    world = World(mirrored={"p1": port("p1")})
    assert find(world, address="fe80::f816:3eff:fe54:9388") == ["p1"]
    private = "fe80::1234:5678:9abc:def0"
    with pytest.raises(NoSinglePort):
        find(world, address=private)
    world.neighbours = {str(private): "FA:16:3E:54:93:88"}
    assert find(world, address=private) == ["p1"]
    world.mirrored, world.real = {}, [port("p2")]
    assert find(world, address=private) == ["p2"]
    assert world.queries[-1] == {"network_id": ["net-1"], "mac_address": "fa:16:3e:54:93:88"}


def test_a_port_older_than_the_maximum_age_is_queried_again_or_not_ready():
    policy = LookupPolicy(max_age_seconds=300, hold_seconds=0.05)

    async def resolved_id(world: World) -> str:
        with ThreadPoolExecutor(2) as executor:
            resolver = PortResolver(
                AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock, policy=policy
            )
            found = await resolver.resolve(ClientOrigin(NETWORK, FIVE))
            is_current = world.connected and world.age_seconds <= 300
            assert (resolver.cached(ClientOrigin(NETWORK, FIVE)) is found) == is_current
            return found.port.id

    old = {"p1": port("p1")}
    # The mirror lost its connection and still counts as connected, so the control API is queried.
    assert asyncio.run(resolved_id(World(mirrored=old, real=[port("p2")], age_seconds=301))) == "p2"
    assert asyncio.run(resolved_id(World(mirrored=old, unavailable=True, connected=False, age_seconds=300))) == "p1"
    for connected in (True, False):
        with pytest.raises(PortNotReady, match="too old"):
            asyncio.run(resolved_id(World(mirrored=old, unavailable=True, connected=connected, age_seconds=301)))


async def test_a_request_of_an_unbound_port_is_held_until_the_port_is_bound():
    world = World(real=[port("p1", device_id="")])
    with ThreadPoolExecutor(1) as executor:
        resolver = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        resolver.start()
        request = asyncio.ensure_future(resolver.resolve(ClientOrigin(NETWORK, FIVE)))
        async with asyncio.timeout(20):
            while not world.queries:  # noqa: ASYNC110 - polled with a deadline
                await asyncio.sleep(0.005)
        assert not request.done()
        world.mirrored = {"p1": port("p1")}
        resolver.on_view(world)
        assert (await request).port.device_id == "vm"


@pytest.mark.parametrize("listener", [NETWORK, ROUTER])
async def test_a_held_request_fails_when_its_port_is_deleted(listener: str) -> None:
    unbound = port("p1", device_id="")
    interface = port("i1", "10.0.0.1", device_id="r1", device_owner="network:router_interface")
    world = World(mirrored={"i1": interface, "p1": unbound}, real=[interface, unbound])

    with ThreadPoolExecutor(1) as executor:
        resolver = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        resolver.start()
        request = asyncio.ensure_future(resolver.resolve(ClientOrigin(listener, FIVE)))
        async with asyncio.timeout(20):
            while not world.queries:  # noqa: ASYNC110 - polled with a deadline
                await asyncio.sleep(0.005)
        world.mirrored, world.real = {"i1": interface}, [interface]
        resolver.on_view(world)
        with pytest.raises(NoSinglePort):
            await request


def test_a_port_that_stays_unbound_is_not_ready_instead_of_not_found():
    world = World(real=[port("p1", device_id="")])

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            policy = LookupPolicy(hold_seconds=0.05)
            resolver = PortResolver(
                AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock, policy=policy
            )
            await resolver.resolve(ClientOrigin(NETWORK, FIVE))

    with pytest.raises(PortNotReady, match="not bound to an instance yet"):
        asyncio.run(main())


async def test_a_result_without_a_watch_is_not_used_after_the_watch_reconnects():
    world = World(connected=False, real=[port("p1")])
    with ThreadPoolExecutor(1) as executor:
        resolver = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        assert (await resolver.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p1"
        world.connected, world.real = True, [port("p2")]
        assert (await resolver.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p2"


def behind_a_shared_router(*ports: Port) -> World:
    """Returns a cloud with a router on the only subnet of `net-1` and on one of two subnets of another project's `net-2`."""
    subnets = (
        Subnet(id="s", network_id="net-1", project_id="t", cidr="10.0.0.0/24"),
        Subnet(id="s2", network_id="net-2", project_id="evil", cidr="10.9.0.0/24"),
        Subnet(id="overlapping", network_id="net-2", project_id="evil", cidr="10.0.0.0/24"),
    )
    legs = [
        port("leg-1", "10.0.0.1", device_id="r1", device_owner="network:router_interface"),
        Port(
            id="leg-2",
            network_id="net-2",
            project_id="evil",
            mac_address="fa:16:3e:00:00:02",
            fixed_ips=(FixedIP("s2", "10.9.0.1"),),
            device_id="r1",
            device_owner="network:router_interface",
        ),
    ]
    world = World(real=[*legs, *ports], subnets={one.id: one for one in subnets})
    world.mirrored = {one.id: one for one in world.real}
    return world


TWIN = replace(port("twin", network="net-2", device_id="evil-vm"), fixed_ips=(FixedIP("overlapping", "10.0.0.5"),))
"""A port with the same address, on a subnet of `net-2` that the router is not on."""


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_port_of_another_projects_network_behind_the_same_router_does_not_match_the_address(is_watched: bool):
    world = behind_a_shared_router(port("victim"), TWIN)
    world.connected = is_watched
    if not is_watched:
        world.mirrored = {}
    assert find(world, ROUTER) == ["victim"]


@pytest.mark.parametrize("is_watched", [True, False])
def test_an_address_without_a_port_yet_does_not_match_another_network(is_watched: bool):
    """Otherwise an instance that boots before the event arrives would run the user data of another project."""
    world = behind_a_shared_router(TWIN)
    world.connected = is_watched
    if not is_watched:
        world.mirrored = {}
    with pytest.raises(NoSinglePort):
        find(world, ROUTER)


def test_an_address_outside_every_subnet_of_the_router_matches_any_of_its_networks():
    routed = replace(port("routed", network="net-2"), fixed_ips=(FixedIP("third", "172.16.0.5"),))
    assert find(behind_a_shared_router(routed), ROUTER, "172.16.0.5") == ["routed"]


def shared(*ports: Port, is_watched: bool) -> World:
    """Returns a cloud with these ports on a shared network, and with a neighbour table."""
    world = World(real=list(ports), neighbours={"fe80::7": ports[0].mac_address}, connected=is_watched)
    if is_watched:
        world.mirrored = {one.id: one for one in ports}
    return world


NEIGHBOUR = replace(port("neighbour", "10.0.0.6"), project_id="other", mac_address="fa:16:3e:00:00:02")


@pytest.mark.parametrize("is_watched", [True, False])
def test_the_neighbour_table_identifies_no_client_of_a_network_with_ports_of_two_projects(is_watched: bool):
    """Another client can announce the victim's link-local address while it opens connections from it."""
    with pytest.raises(NoSinglePort):
        find(shared(port("victim"), NEIGHBOUR, is_watched=is_watched), NETWORK, "fe80::7")
    assert find(shared(port("victim"), is_watched=is_watched), NETWORK, "fe80::7") == ["victim"]


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_link_local_client_behind_a_router_with_ports_of_two_projects_is_not_identified(is_watched: bool):
    """A client on the other network could use the victim's link-local address, MAC included."""
    world = behind_a_shared_router(port("victim"), replace(NEIGHBOUR, network_id="net-2"))
    world.connected = is_watched
    if not is_watched:
        world.mirrored = {}
    with pytest.raises(NoSinglePort):
        find(world, ROUTER, "fe80::f816:3eff:fe54:9388")
    assert find(world, ROUTER) == ["victim"]


async def test_a_binding_by_the_neighbour_table_is_valid_for_one_request():
    world = shared(port("victim"), is_watched=True)
    with ThreadPoolExecutor(1) as executor:
        resolver = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        binding = await resolver.resolve(ClientOrigin(NETWORK, "fe80::7"))
        assert not resolver.trusts(binding)
        assert resolver.cached(ClientOrigin(NETWORK, "fe80::7")) is None
