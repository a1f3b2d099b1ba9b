"""Bindings and looks: what a change in the middle of everything leaves true."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.builders import port, router_interface
from tests.waiting import HANG_SECONDS, until_async

from openimds.agents.metadata.lookup import resolver
from openimds.agents.metadata.lookup.hold_queue import HoldQueue
from openimds.agents.metadata.lookup.port_queries import MAX_QUERIES_PER_SCOPE
from openimds.agents.metadata.lookup.resolver import ClientOrigin, LookupPolicy, PortResolver
from openimds.agents.metadata.protocols import ControlAwayError
from openimds.client.mirror import CloudView
from openimds.guest_identity.addresses import Address
from openimds.guest_identity.port_index import MacIndex
from openimds.guest_identity.port_match import NoSinglePort, PortNotReady
from openimds.resources.network import AddressPair, FixedIP, Port, Subnet

MAC_A, MAC_B = "fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b"
AT = ("network:n1", "10.0.0.5")
SUBNETS = {"s": Subnet(id="s", network_id="n1", project_id="p", cidr="10.0.0.0/24")}


@dataclass
class World:
    """What the mirror knows, and what the control API says when it is let."""

    now: CloudView = field(default_factory=lambda: CloudView(revision=1))
    connected: bool = True
    age_seconds: float = 0
    real: list[Port] = field(default_factory=list)
    real_subnets: dict[str, Subnet] = field(default_factory=dict)
    away: bool = False
    looks: list[Mapping[str, str | Sequence[str]]] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    callbacks: list[Callable[[Any], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open.set()

    def view(self) -> CloudView:
        return self.now

    def subscribe(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)
        callback(self.now)

    def hear(self, *ports: Port) -> None:
        self.now = CloudView(
            revision=self.now.revision + 1, ports={one.id: one for one in ports}, subnets=self.real_subnets
        )
        for callback in self.callbacks:
            callback(self.now)

    def ports(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        found = [one for one in self.real if self._fits(one, filters)]
        self.looks.append(filters)
        assert self.open.wait(HANG_SECONDS)
        if self.away:
            raise ControlAwayError("the control API is away")
        return found

    def subnets(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        return [one for one in self.real_subnets.values() if one.network_id in filters["network_id"]]

    def mac_of(self, _network_id: str | None, _router_id: str | None, _address: Address) -> str | None:
        return None

    def _fits(self, one: Port, filters: Mapping[str, str | Sequence[str]]) -> bool:
        values = {"network_id": one.network_id, "mac_address": one.mac_address, "device_id": one.device_id}
        return all(values[name] == wanted or values[name] in wanted for name, wanted in filters.items())


def play(world: World, scene: Callable[[PortResolver], Coroutine[Any, Any, None]], hold_seconds: float = 20) -> None:
    @asynccontextmanager
    async def identity() -> AsyncIterator[PortResolver]:
        with ThreadPoolExecutor(8) as executor:
            made = PortResolver(
                MacIndex(),
                world,
                world,
                world,
                executor=executor,
                clock=time.monotonic,
                is_eager=True,
                policy=LookupPolicy(hold_seconds=hold_seconds),
            )
            made.start()
            yield made

    async def run() -> None:
        async with identity() as made:
            await scene(made)

    asyncio.run(run())


def test_a_look_that_a_change_overtook_is_made_again() -> None:
    """It read the port before the port was given to another instance, and came back after that was heard."""
    world = World(real=[port("a", MAC_A)])

    async def scene(identity: PortResolver) -> None:
        world.open.clear()
        asking = asyncio.create_task(identity.resolve(ClientOrigin(*AT, MAC_A)))
        await until_async(lambda: world.looks)
        rebound = port("a", MAC_A, device_id="vm-other")
        world.real = [rebound]
        world.hear(rebound)
        world.hear()  # and the mirror has forgotten it again: nothing but another look can tell
        await asyncio.sleep(0)
        world.open.set()
        assert (await asking).port.device_id == "vm-other"
        assert len(world.looks) == 2

    play(world, scene)


def test_a_look_joined_late_is_not_older_than_the_news() -> None:
    world = World(real=[port("a", MAC_A)])

    async def scene(identity: PortResolver) -> None:
        world.open.clear()
        first = asyncio.create_task(identity.resolve(ClientOrigin(*AT, MAC_A)))
        await until_async(lambda: world.looks)
        world.hear(port("a", MAC_A))
        world.real = []
        world.hear()
        second = asyncio.create_task(identity.resolve(ClientOrigin(*AT, MAC_A)))
        await until_async(lambda: len(world.looks) == 2)
        world.open.set()
        with pytest.raises(NoSinglePort):
            await second
        with pytest.raises(NoSinglePort):
            await first

    play(world, scene)


def test_only_bindings_that_a_change_concerns_end() -> None:
    a, b = port("a", MAC_A), port("b", MAC_B, "10.0.0.6")
    world = World()
    world.hear(a, b)

    async def scene(identity: PortResolver) -> None:
        of_a, of_b = (
            await identity.resolve(ClientOrigin(*AT, MAC_A)),
            await identity.resolve(ClientOrigin("network:n1", "10.0.0.6", MAC_B)),
        )
        assert identity.cached(ClientOrigin(*AT, MAC_A)) is of_a
        changed = replace(a, name="renamed")
        world.hear(changed, b)
        assert not identity.trusts(of_b)  # until the news is taken in
        identity.refresh()
        assert (of_a.good, of_b.good) == (False, True)
        assert identity.trusts(of_b)
        assert (await identity.resolve(ClientOrigin(*AT, MAC_A))).port is changed
        assert world.looks == []

    play(world, scene)


def test_a_second_port_with_the_same_mac_and_address_ends_the_binding() -> None:
    a = port("a", MAC_A)
    world = World()
    world.hear(a)

    async def scene(identity: PortResolver) -> None:
        binding = await identity.resolve(ClientOrigin(*AT, MAC_A))
        world.hear(a, port("twin", MAC_A))
        identity.refresh()
        assert not binding.good
        with pytest.raises(NoSinglePort, match="more than one"):
            await identity.resolve(ClientOrigin(*AT, MAC_A))

    play(world, scene)


def test_a_router_that_leaves_a_network_knows_its_guests_no_more() -> None:
    a, leg = port("a", MAC_A), router_interface("if-r1-n1", "r1", "n1")
    world = World(real=[a], real_subnets=SUBNETS)
    world.hear(a, leg)

    async def scene(identity: PortResolver) -> None:
        binding = await identity.resolve(ClientOrigin("router:r1", "10.0.0.5", MAC_A))
        world.hear(a)
        identity.refresh()
        assert not binding.good
        with pytest.raises(NoSinglePort):
            await identity.resolve(ClientOrigin("router:r1", "10.0.0.5", MAC_A))
        assert [filters for filters in world.looks if "network_id" in filters] == []  # no network: never all of them

    play(world, scene)


def test_without_a_watch_the_control_api_is_asked_and_a_pair_is_found_too() -> None:
    virtual = "00:00:5e:00:01:01"
    world = World(connected=False, real=[port("a", MAC_A, allowed_address_pairs=(AddressPair("10.0.0.9", virtual),))])

    async def scene(identity: PortResolver) -> None:
        assert (await identity.resolve(ClientOrigin(*AT, MAC_A))).port.id == "a"
        assert (await identity.resolve(ClientOrigin("network:n1", "10.0.0.9", virtual))).port.id == "a"
        asked = len(world.looks)
        await identity.resolve(ClientOrigin(*AT, MAC_A))
        assert len(world.looks) == asked  # believed for a moment: a boot's requests come in one go

    play(world, scene)


def test_who_is_known_is_answered_while_the_control_api_is_silent() -> None:
    world = World(away=True)
    world.hear(port("a", MAC_A))
    world.connected = False

    async def scene(identity: PortResolver) -> None:
        for _ in range(5):
            assert (await identity.resolve(ClientOrigin(*AT, MAC_A))).port.id == "a"
        assert len(world.looks) == 1  # it did not answer a moment ago
        with pytest.raises(PortNotReady, match="held for"):
            await identity.resolve(ClientOrigin("network:n1", "10.0.0.6", MAC_B))

    play(world, scene, hold_seconds=0.05)


def test_no_mac_at_all_is_not_known_rather_than_by_the_address() -> None:
    world = World()
    world.hear(port("a", MAC_A))

    async def scene(identity: PortResolver) -> None:
        with pytest.raises(PortNotReady, match="neighbour"):
            await identity.resolve(ClientOrigin(*AT, ""))

    play(world, scene)


def test_bindings_are_bounded_and_one_that_is_dropped_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_BINDINGS", 2)
    world = World()
    world.hear(*(port(f"p{n}", f"fa:16:3e:00:00:{n:02x}", f"10.0.0.{n}") for n in range(3)))

    async def scene(identity: PortResolver) -> None:
        found = [
            await identity.resolve(ClientOrigin("network:n1", f"10.0.0.{n}", f"fa:16:3e:00:00:{n:02x}"))
            for n in range(3)
        ]
        assert [binding.good for binding in found] == [False, True, True]

    play(world, scene)


def test_what_a_look_found_is_not_believed_when_the_watch_begins_without_it() -> None:
    """The port was made and deleted while there was no watch: the mirror never had it, and says nothing of its end."""
    world = World(connected=False, real=[port("a", MAC_A)])

    async def scene(identity: PortResolver) -> None:
        found = await identity.resolve(ClientOrigin(*AT, MAC_A))
        world.real = []
        world.connected = True
        world.hear(port("b", MAC_B, "10.0.0.6"))
        identity.refresh()
        assert not identity.trusts(found)
        assert identity.cached(ClientOrigin(*AT, MAC_A)) is None
        with pytest.raises(NoSinglePort):
            await identity.resolve(ClientOrigin(*AT, MAC_A))

    play(world, scene)


def test_a_port_that_came_and_went_within_one_piece_of_news_is_answered_once() -> None:
    """Each object is told as it is at last: of a port made and deleted since, no view ever had anything."""
    world = World(real=[port("a", MAC_A)])

    async def scene(identity: PortResolver) -> None:
        found = await identity.resolve(ClientOrigin(*AT, MAC_A))
        assert found.port.id == "a"
        world.real = []
        world.hear()
        identity.refresh()
        assert not identity.trusts(found)
        with pytest.raises(NoSinglePort):
            await identity.resolve(ClientOrigin(*AT, MAC_A))

    play(world, scene)


def test_a_network_of_many_unknown_macs_keeps_no_other_network_waiting() -> None:
    world = World(real=[port("b", MAC_B, "10.0.0.6", network="n2")])

    async def scene(identity: PortResolver) -> None:
        world.open.clear()
        flood = [
            asyncio.create_task(identity.resolve(ClientOrigin("network:n1", "10.0.0.5", f"fa:16:3e:00:01:{n:02x}")))
            for n in range(50)
        ]
        await until_async(lambda: len(world.looks) == MAX_QUERIES_PER_SCOPE)
        other = asyncio.create_task(identity.resolve(ClientOrigin("network:n2", "10.0.0.6", MAC_B)))
        await until_async(lambda: len(world.looks) == MAX_QUERIES_PER_SCOPE + 1)  # before the others
        world.open.set()
        assert (await other).port.id == "b"
        outcomes = await asyncio.gather(*flood, return_exceptions=True)
        assert all(isinstance(one, NoSinglePort) for one in outcomes)

    play(world, scene)


def test_a_change_of_subnets_alone_wakes_who_is_held_and_ends_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is in a subnet of n1 that goes: then it may be on n2 as well, where its port is; and when it comes back,
    that is over.
    """
    monkeypatch.setattr(resolver, "HoldQueue", lambda seconds: HoldQueue(seconds, 300))
    legs = [
        replace(router_interface(f"if-r1-{network}", "r1", network), fixed_ips=(FixedIP(f"s-{network}", "-"),))
        for network in ("n1", "n2")
    ]
    there = port("a", MAC_A, network="n2")
    other = {"s-n2": Subnet(id="s-n2", network_id="n2", project_id="p", cidr="10.1.0.0/24")}
    home = other | {"s-n1": Subnet(id="s-n1", network_id="n1", project_id="p", cidr="10.0.0.0/24")}
    world = World(away=True, real_subnets=home)

    async def scene(identity: PortResolver) -> None:
        world.hear(there, *legs)
        asking = asyncio.create_task(identity.resolve(ClientOrigin("router:r1", "10.0.0.5", MAC_A)))
        await until_async(lambda: len(world.looks) > 0)
        assert not asking.done()
        world.real_subnets = other
        world.hear(there, *legs)
        binding = await asking
        assert binding.port.id == "a"
        assert identity.trusts(binding)
        world.real_subnets = home
        world.now = replace(world.now, subnets=home)
        assert not identity.trusts(binding)  # also before anybody told
        identity.refresh()
        assert not binding.good

    play(world, scene)
