"""Bindings and queries that overlap with changes."""

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
    """The view of the mirror, and a control API that responds while `open` is set."""

    now: CloudView = field(default_factory=lambda: CloudView(revision=1))
    connected: bool = True
    age_seconds: float = 0
    real: list[Port] = field(default_factory=list)
    real_subnets: dict[str, Subnet] = field(default_factory=dict)
    unavailable: bool = False
    queries: list[Mapping[str, str | Sequence[str]]] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    callbacks: list[Callable[[Any], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open.set()

    def view(self) -> CloudView:
        return self.now

    def subscribe(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)
        callback(self.now)

    def publish(self, *ports: Port) -> None:
        self.now = CloudView(
            revision=self.now.revision + 1, ports={one.id: one for one in ports}, subnets=self.real_subnets
        )
        for callback in self.callbacks:
            callback(self.now)

    def ports(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        found = [one for one in self.real if self._fits(one, filters)]
        self.queries.append(filters)
        assert self.open.wait(HANG_SECONDS)
        if self.unavailable:
            raise ControlAwayError("the control API is unavailable")
        return found

    def subnets(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        return [one for one in self.real_subnets.values() if one.network_id in filters["network_id"]]

    def mac_of(self, _network_id: str | None, _router_id: str | None, _address: Address) -> str | None:
        return None

    def _fits(self, one: Port, filters: Mapping[str, str | Sequence[str]]) -> bool:
        values = {"network_id": one.network_id, "mac_address": one.mac_address, "device_id": one.device_id}
        return all(
            values[name] == wanted or values[name] in wanted for name, wanted in filters.items() if name in values
        )


def run(world: World, scenario: Callable[[PortResolver], Coroutine[Any, Any, None]], hold_seconds: float = 20) -> None:
    @asynccontextmanager
    async def started_resolver() -> AsyncIterator[PortResolver]:
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
        async with started_resolver() as made:
            await scenario(made)

    asyncio.run(run())


def test_a_query_that_a_change_overtakes_is_repeated() -> None:
    """The query reads the port before the port is bound to another instance, and returns after that event."""
    world = World(real=[port("a", MAC_A)])

    async def scenario(port_resolver: PortResolver) -> None:
        world.open.clear()
        request = asyncio.create_task(port_resolver.resolve(ClientOrigin(*AT, MAC_A)))
        await until_async(lambda: world.queries)
        rebound = port("a", MAC_A, device_id="vm-other")
        world.real = [rebound]
        world.publish(rebound)
        world.publish()  # the mirror has no port, so only another query finds the new instance
        await asyncio.sleep(0)
        world.open.set()
        assert (await request).port.device_id == "vm-other"
        assert len(world.queries) == 2

    run(world, scenario)


def test_a_request_does_not_join_a_query_that_is_older_than_a_change() -> None:
    world = World(real=[port("a", MAC_A)])

    async def scenario(port_resolver: PortResolver) -> None:
        world.open.clear()
        first = asyncio.create_task(port_resolver.resolve(ClientOrigin(*AT, MAC_A)))
        await until_async(lambda: world.queries)
        world.publish(port("a", MAC_A))
        world.real = []
        world.publish()
        second = asyncio.create_task(port_resolver.resolve(ClientOrigin(*AT, MAC_A)))
        await until_async(lambda: len(world.queries) == 2)
        world.open.set()
        with pytest.raises(NoSinglePort):
            await second
        with pytest.raises(NoSinglePort):
            await first

    run(world, scenario)


def test_a_change_ends_only_the_bindings_of_its_port() -> None:
    a, b = port("a", MAC_A), port("b", MAC_B, "10.0.0.6")
    world = World()
    world.publish(a, b)

    async def scenario(port_resolver: PortResolver) -> None:
        of_a, of_b = (
            await port_resolver.resolve(ClientOrigin(*AT, MAC_A)),
            await port_resolver.resolve(ClientOrigin("network:n1", "10.0.0.6", MAC_B)),
        )
        assert port_resolver.cached(ClientOrigin(*AT, MAC_A)) is of_a
        changed = replace(a, name="renamed")
        world.publish(changed, b)
        assert not port_resolver.trusts(of_b)  # until the change is applied
        port_resolver.refresh()
        assert (of_a.is_valid, of_b.is_valid) == (False, True)
        assert port_resolver.trusts(of_b)
        assert (await port_resolver.resolve(ClientOrigin(*AT, MAC_A))).port is changed
        assert world.queries == []

    run(world, scenario)


def test_a_second_port_with_the_same_mac_and_address_ends_the_binding() -> None:
    a = port("a", MAC_A)
    world = World()
    world.publish(a)

    async def scenario(port_resolver: PortResolver) -> None:
        binding = await port_resolver.resolve(ClientOrigin(*AT, MAC_A))
        world.publish(a, port("twin", MAC_A))
        port_resolver.refresh()
        assert not binding.is_valid
        with pytest.raises(NoSinglePort, match="more than one"):
            await port_resolver.resolve(ClientOrigin(*AT, MAC_A))

    run(world, scenario)


def test_a_router_that_leaves_a_network_does_not_find_its_clients_any_longer() -> None:
    a, leg = port("a", MAC_A), router_interface("if-r1-n1", "r1", "n1")
    world = World(real=[a], real_subnets=SUBNETS)
    world.publish(a, leg)

    async def scenario(port_resolver: PortResolver) -> None:
        binding = await port_resolver.resolve(ClientOrigin("router:r1", "10.0.0.5", MAC_A))
        world.publish(a)
        port_resolver.refresh()
        assert not binding.is_valid
        with pytest.raises(NoSinglePort):
            await port_resolver.resolve(ClientOrigin("router:r1", "10.0.0.5", MAC_A))
        # A router without networks sends no query for all networks.
        assert [filters for filters in world.queries if "network_id" in filters] == []

    run(world, scenario)


def test_without_a_watch_the_control_api_is_queried_and_an_address_pair_is_found_too() -> None:
    virtual = "00:00:5e:00:01:01"
    world = World(connected=False, real=[port("a", MAC_A, allowed_address_pairs=(AddressPair("10.0.0.9", virtual),))])

    async def scenario(port_resolver: PortResolver) -> None:
        assert (await port_resolver.resolve(ClientOrigin(*AT, MAC_A))).port.id == "a"
        assert (await port_resolver.resolve(ClientOrigin("network:n1", "10.0.0.9", virtual))).port.id == "a"
        before = len(world.queries)
        await port_resolver.resolve(ClientOrigin(*AT, MAC_A))
        assert len(world.queries) == before  # the result is cached, because a booting instance sends many requests

    run(world, scenario)


def test_a_mirrored_client_is_found_while_the_control_api_is_unavailable() -> None:
    world = World(unavailable=True)
    world.publish(port("a", MAC_A))
    world.connected = False

    async def scenario(port_resolver: PortResolver) -> None:
        for _ in range(5):
            assert (await port_resolver.resolve(ClientOrigin(*AT, MAC_A))).port.id == "a"
        assert len(world.queries) == 1  # the failure is cached
        with pytest.raises(PortNotReady, match="held for"):
            await port_resolver.resolve(ClientOrigin("network:n1", "10.0.0.6", MAC_B))

    run(world, scenario, hold_seconds=0.05)


def test_a_request_without_a_mac_is_not_ready_instead_of_found_by_its_address() -> None:
    world = World()
    world.publish(port("a", MAC_A))

    async def scenario(port_resolver: PortResolver) -> None:
        with pytest.raises(PortNotReady, match="neighbour"):
            await port_resolver.resolve(ClientOrigin(*AT, ""))

    run(world, scenario)


def test_bindings_are_bounded_and_an_evicted_binding_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_BINDINGS", 2)
    world = World()
    world.publish(*(port(f"p{n}", f"fa:16:3e:00:00:{n:02x}", f"10.0.0.{n}") for n in range(3)))

    async def scenario(port_resolver: PortResolver) -> None:
        found = [
            await port_resolver.resolve(ClientOrigin("network:n1", f"10.0.0.{n}", f"fa:16:3e:00:00:{n:02x}"))
            for n in range(3)
        ]
        assert [binding.is_valid for binding in found] == [False, True, True]

    run(world, scenario)


def test_a_query_result_is_invalid_when_the_watch_begins_without_its_port() -> None:
    """The port is created and deleted without a watch, so the mirror never has it and sends no event of its deletion."""
    world = World(connected=False, real=[port("a", MAC_A)])

    async def scenario(port_resolver: PortResolver) -> None:
        found = await port_resolver.resolve(ClientOrigin(*AT, MAC_A))
        world.real = []
        world.connected = True
        world.publish(port("b", MAC_B, "10.0.0.6"))
        port_resolver.refresh()
        assert not port_resolver.trusts(found)
        assert port_resolver.cached(ClientOrigin(*AT, MAC_A)) is None
        with pytest.raises(NoSinglePort):
            await port_resolver.resolve(ClientOrigin(*AT, MAC_A))

    run(world, scenario)


def test_a_port_created_and_deleted_within_one_event_is_found_once() -> None:
    """An event has only the last state of each object, so no view ever contains this port."""
    world = World(real=[port("a", MAC_A)])

    async def scenario(port_resolver: PortResolver) -> None:
        found = await port_resolver.resolve(ClientOrigin(*AT, MAC_A))
        assert found.port.id == "a"
        world.real = []
        world.publish()
        port_resolver.refresh()
        assert not port_resolver.trusts(found)
        with pytest.raises(NoSinglePort):
            await port_resolver.resolve(ClientOrigin(*AT, MAC_A))

    run(world, scenario)


def test_a_network_with_many_unknown_macs_does_not_delay_another_network() -> None:
    world = World(real=[port("b", MAC_B, "10.0.0.6", network="n2")])

    async def scenario(port_resolver: PortResolver) -> None:
        world.open.clear()
        flood = [
            asyncio.create_task(
                port_resolver.resolve(ClientOrigin("network:n1", "10.0.0.5", f"fa:16:3e:00:01:{n:02x}"))
            )
            for n in range(50)
        ]
        await until_async(lambda: len(world.queries) == 1)
        other = asyncio.create_task(port_resolver.resolve(ClientOrigin("network:n2", "10.0.0.6", MAC_B)))
        # This query does not wait for the queries of the first network.
        await until_async(lambda: len(world.queries) == 2)
        world.open.set()
        assert (await other).port.id == "b"
        outcomes = await asyncio.gather(*flood, return_exceptions=True)
        assert all(isinstance(one, NoSinglePort) for one in outcomes)

    run(world, scenario)


def test_a_change_of_subnets_alone_wakes_held_requests_and_ends_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is inside a subnet of `n1`, and its port is on `n2`.

    The port matches while the subnet of `n1` does not exist.
    """
    monkeypatch.setattr(resolver, "HoldQueue", lambda seconds: HoldQueue(seconds, 300))
    legs = [
        replace(router_interface(f"if-r1-{network}", "r1", network), fixed_ips=(FixedIP(f"s-{network}", "-"),))
        for network in ("n1", "n2")
    ]
    there = port("a", MAC_A, network="n2")
    other = {"s-n2": Subnet(id="s-n2", network_id="n2", project_id="p", cidr="10.1.0.0/24")}
    home = other | {"s-n1": Subnet(id="s-n1", network_id="n1", project_id="p", cidr="10.0.0.0/24")}
    world = World(unavailable=True, real_subnets=home)

    async def scenario(port_resolver: PortResolver) -> None:
        world.publish(there, *legs)
        request = asyncio.create_task(port_resolver.resolve(ClientOrigin("router:r1", "10.0.0.5", MAC_A)))
        await until_async(lambda: len(world.queries) > 0)
        assert not request.done()
        world.real_subnets = other
        world.publish(there, *legs)
        binding = await request
        assert binding.port.id == "a"
        assert port_resolver.trusts(binding)
        world.real_subnets = home
        world.now = replace(world.now, subnets=home)
        assert not port_resolver.trusts(binding)  # the binding is invalid before the event, too
        port_resolver.refresh()
        assert not binding.is_valid

    run(world, scenario)
