"""Who asks: the mirror first, one look before "nobody", and never an old owner."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests import builders

from openimds.agents.metadata.lookup.resolver import ClientOrigin, LookupPolicy, PortResolver
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
    """A cloud: what the mirror has heard of, what the control API would say, and what the namespaces know."""

    mirrored: dict[str, Port] = field(default_factory=dict)
    subnets: dict[str, Subnet] = field(default_factory=dict)
    real: list[Port] = field(default_factory=list)
    connected: bool = True
    age_seconds: float = 0
    away: bool = False
    looks: list[Mapping[str, str | Sequence[str]]] = field(default_factory=list)
    neighbours: dict[str, str] = field(default_factory=dict)
    revision: int = 1
    now: float = 100.0
    held: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.held.set()

    def view(self) -> World:
        return self

    @property
    def ports(self) -> dict[str, Port]:  # of the view
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
        self.world.looks.append(filters)
        if self.world.away:
            raise ControlAwayError("the control API is away")
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
    with ThreadPoolExecutor(2) as executor:
        finder = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        finds = asyncio.gather(*(finder.resolve(ClientOrigin(listener, address)) for _ in range(times)))
        await asyncio.sleep(0)
        world.held.set()
        return [each.port.id for each in await finds]


def find(world: World, listener: str = NETWORK, address: str = FIVE, times: int = 1) -> list[str]:
    return asyncio.run(found(world, listener, address, times))


def test_what_the_mirror_knows_needs_no_look():
    world = World(mirrored={"p1": port("p1")})
    assert find(world) == ["p1"]
    assert world.looks == []


def test_through_a_router():
    inner = port("i", "10.0.0.1", device_id="r1", device_owner="network:router_interface")
    world = World(mirrored={"p1": port("p1"), "i": inner}, subnets=SUBNETS)
    assert find(world, ROUTER) == ["p1"]


def test_a_port_the_mirror_has_not_heard_of_is_found_by_a_look():
    world = World(real=[port("p1")])
    assert find(world) == ["p1"]
    assert world.looks == [{"network_id": ["net-1"], "fixed_ips": "ip_address=10.0.0.5"}]


def test_a_look_through_a_router_asks_for_its_networks_first():
    inner = port("i", "10.0.0.1", device_id="r1", device_owner="network:router_interface")
    world = World(real=[inner, port("p1"), port("p2", network="net-2")], subnets=SUBNETS)
    assert find(world, ROUTER) == ["p1"]
    assert world.looks[0] == {"device_id": "r1"}


def test_a_router_without_networks_finds_nobody_and_not_everybody():
    world = World(real=[port("p1")])
    with pytest.raises(NoSinglePort):
        find(world, ROUTER)
    assert world.looks == [{"device_id": "r1"}]


def test_neither_network_nor_router_finds_nobody():
    world = World(mirrored={"p1": port("p1")}, real=[port("p1")])
    with pytest.raises(NoSinglePort):
        find(world, "")
    assert world.looks == []


def test_equal_looks_at_one_moment_are_one():
    world = World(real=[port("p1")])
    world.held.clear()
    assert find(world, times=20) == ["p1"] * 20
    assert len(world.looks) == 1


def test_nobody_and_several():
    with pytest.raises(NoSinglePort) as nobody:
        find(World())
    assert nobody.value.outcome == "none"
    with pytest.raises(NoSinglePort, match="p1, p2") as several:
        find(World(mirrored={"p1": port("p1"), "p2": port("p2")}))
    assert several.value.outcome == "several"


def test_while_the_control_api_is_away_the_known_are_served_and_the_unknown_hear_not_yet():
    world = World(mirrored={"p1": port("p1")}, connected=False, away=True)
    assert find(world) == ["p1"]
    with pytest.raises(PortNotReady):
        find(world, address="10.0.0.6")


def test_without_a_living_watch_what_the_mirror_knew_is_not_believed():
    world = World(mirrored={"p1": port("p1")}, real=[port("p2")], connected=False)
    assert find(world) == ["p2"]


async def test_a_moved_address_is_never_answered_with_the_old_owner():
    world = World(mirrored={"p1": port("p1")})
    with ThreadPoolExecutor(1) as executor:
        finder = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        assert (await finder.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p1"
        world.mirrored = {"p2": port("p2")}
        assert (await finder.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p2"
        world.mirrored = {}
        with pytest.raises(NoSinglePort):
            await finder.resolve(ClientOrigin(NETWORK, FIVE))


async def test_nobody_is_believed_for_a_second_and_a_find_for_two_without_a_watch():
    world = World(connected=False)
    with ThreadPoolExecutor(1) as executor:
        finder = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        for _ in range(3):
            with pytest.raises(NoSinglePort):
                await finder.resolve(ClientOrigin(NETWORK, FIVE))
        assert len(world.looks) == 1
        world.real = [port("p1")]
        world.now += 1.1
        for _ in range(3):
            assert (await finder.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p1"
        assert len(world.looks) == 2
        world.real = [port("p2")]
        world.now += 2.1
        assert (await finder.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p2"


async def test_a_guest_that_hangs_up_does_not_end_the_look_of_others():
    world = World(real=[port("p1")])
    world.held.clear()
    with ThreadPoolExecutor(1) as executor:
        finder = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        first = asyncio.ensure_future(finder.resolve(ClientOrigin(NETWORK, FIVE)))
        second = asyncio.ensure_future(finder.resolve(ClientOrigin(NETWORK, FIVE)))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        world.held.set()
        assert (await second).port.id == "p1"
        assert len(world.looks) == 1


def test_link_local_addresses_by_the_mac_inside_or_by_the_neighbours():
    world = World(mirrored={"p1": port("p1")})
    assert find(world, address="fe80::f816:3eff:fe54:9388") == ["p1"]
    private = "fe80::1234:5678:9abc:def0"
    with pytest.raises(NoSinglePort):
        find(world, address=private)
    world.neighbours = {str(private): "FA:16:3E:54:93:88"}
    assert find(world, address=private) == ["p1"]
    world.mirrored, world.real = {}, [port("p2")]
    assert find(world, address=private) == ["p2"]
    assert world.looks[-1] == {"network_id": ["net-1"], "mac_address": "fa:16:3e:54:93:88"}


def test_what_was_not_kept_up_for_too_long_is_looked_up_or_not_told():
    policy = LookupPolicy(max_age_seconds=300, hold_seconds=0.05)

    async def asked(world: World) -> str:
        with ThreadPoolExecutor(2) as executor:
            finder = PortResolver(
                AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock, policy=policy
            )
            found = await finder.resolve(ClientOrigin(NETWORK, FIVE))
            is_current = world.connected and world.age_seconds <= 300
            assert (finder.cached(ClientOrigin(NETWORK, FIVE)) is found) == is_current
            return found.port.id

    old = {"p1": port("p1")}
    # Cut off, and not noticed yet: the control API is asked.
    assert asyncio.run(asked(World(mirrored=old, real=[port("p2")], age_seconds=301))) == "p2"
    assert asyncio.run(asked(World(mirrored=old, away=True, connected=False, age_seconds=300))) == "p1"
    for connected in (True, False):
        with pytest.raises(PortNotReady, match="too old"):
            asyncio.run(asked(World(mirrored=old, away=True, connected=connected, age_seconds=301)))


async def test_a_port_that_no_instance_has_yet_is_held_and_answered_once_one_has():
    world = World(real=[port("p1", device_id="")])
    with ThreadPoolExecutor(1) as executor:
        finder = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        finder.start()
        asking = asyncio.ensure_future(finder.resolve(ClientOrigin(NETWORK, FIVE)))
        async with asyncio.timeout(20):
            while not world.looks:  # noqa: ASYNC110 - polled with a deadline
                await asyncio.sleep(0.005)
        assert not asking.done()
        world.mirrored = {"p1": port("p1")}
        finder.on_view(world)
        assert (await asking).port.device_id == "vm"


@pytest.mark.parametrize("listener", [NETWORK, ROUTER])
async def test_who_is_held_is_told_by_the_news_that_its_port_has_gone(listener: str) -> None:
    unbound = port("p1", device_id="")
    interface = port("i1", "10.0.0.1", device_id="r1", device_owner="network:router_interface")
    world = World(mirrored={"i1": interface, "p1": unbound}, real=[interface, unbound])

    with ThreadPoolExecutor(1) as executor:
        finder = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        finder.start()
        asking = asyncio.ensure_future(finder.resolve(ClientOrigin(listener, FIVE)))
        async with asyncio.timeout(20):
            while not world.looks:  # noqa: ASYNC110 - polled with a deadline
                await asyncio.sleep(0.005)
        world.mirrored, world.real = {"i1": interface}, [interface]
        finder.on_view(world)
        with pytest.raises(NoSinglePort):
            await asking


def test_a_port_that_no_instance_gets_is_never_a_no():
    world = World(real=[port("p1", device_id="")])

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            policy = LookupPolicy(hold_seconds=0.05)
            finder = PortResolver(
                AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock, policy=policy
            )
            await finder.resolve(ClientOrigin(NETWORK, FIVE))

    with pytest.raises(PortNotReady, match="not bound to an instance yet"):
        asyncio.run(main())


async def test_what_was_found_without_a_watch_is_not_believed_when_it_is_back():
    world = World(connected=False, real=[port("p1")])
    with ThreadPoolExecutor(1) as executor:
        finder = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        assert (await finder.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p1"
        world.connected, world.real = True, [port("p2")]
        assert (await finder.resolve(ClientOrigin(NETWORK, FIVE))).port.id == "p2"


def behind_a_shared_router(*ports: Port) -> World:
    """`net-1` is 10.0.0.0/24 and the router is on it; of `net-2`, another project's, it is on another subnet."""
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
"""The same address on a subnet of `net-2` that the router is not on."""


@pytest.mark.parametrize("is_watched", [True, False])
def test_another_projects_network_behind_the_same_router_takes_nobodys_address(is_watched: bool):
    world = behind_a_shared_router(port("victim"), TWIN)
    world.connected = is_watched
    if not is_watched:
        world.mirrored = {}
    assert find(world, ROUTER) == ["victim"]


@pytest.mark.parametrize("is_watched", [True, False])
def test_an_address_that_is_nobodys_yet_is_not_another_networks(is_watched: bool):
    """Or a guest that boots faster than the news would run what another project wrote for it."""
    world = behind_a_shared_router(TWIN)
    world.connected = is_watched
    if not is_watched:
        world.mirrored = {}
    with pytest.raises(NoSinglePort):
        find(world, ROUTER)


def test_an_address_outside_every_subnet_of_the_router_may_be_on_any_of_its_networks():
    away = replace(port("away", network="net-2"), fixed_ips=(FixedIP("third", "172.16.0.5"),))
    assert find(behind_a_shared_router(away), ROUTER, "172.16.0.5") == ["away"]


def shared(*ports: Port, is_watched: bool) -> World:
    """A network with ports of two projects, and the neighbour table of its namespace."""
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


async def test_a_binding_by_the_neighbour_table_is_for_one_request():
    world = shared(port("victim"), is_watched=True)
    with ThreadPoolExecutor(1) as executor:
        finder = PortResolver(AddressIndex(), world, Neutron(world), world, executor=executor, clock=world.clock)
        binding = await finder.resolve(ClientOrigin(NETWORK, "fe80::7"))
        assert not finder.trusts(binding)
        assert finder.cached(ClientOrigin(NETWORK, "fe80::7")) is None
