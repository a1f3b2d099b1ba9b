"""Queries for the ports of a cloud without a watch: their number, the age of results, and the last known ports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs
from tests import builders
from tests.waiting import until_async

from openimds.agents.metadata.lookup import port_batch, port_queries
from openimds.agents.metadata.lookup.hold_queue import StaleResultError
from openimds.agents.metadata.lookup.port_queries import MAX_ENTRIES, NEGATIVE_TTL_SECONDS, PortQueries
from openimds.agents.metadata.protocols import ControlAwayError
from openimds.guest_identity.addresses import parse_address
from openimds.guest_identity.port_index import AddressIndex, MacIndex
from openimds.guest_identity.port_match import ClientSource
from openimds.resources.network import FixedIP, NotifiedChange, Port, Subnet

FOUND_SECONDS = 5.0
MAX_AGE_SECONDS = 300.0
TIMEOUT_SECONDS = 60.0
Result = TypeVar("Result")


def address_of(number: int) -> str:
    return f"10.0.{number // 200}.{number % 200 + 10}"


def port(number: int, network: str = "net-1", **fields: Any) -> Port:
    mac = f"fa:16:3e:00:{number // 256:02x}:{number % 256:02x}"
    return builders.port(f"{network}-p{number}", mac, address_of(number), network=network, **fields)


def interface(network: str) -> Port:
    made = builders.port(
        f"if-{network}",
        "fa:16:3e:ff:ff:01",
        "10.0.0.1",
        network=network,
        device_id="r1",
        device_owner="network:router_interface",
    )
    return replace(made, fixed_ips=(FixedIP(f"s-{network}", "10.0.0.1"),))


@dataclass
class Neutron:
    """Neutron's lists of ports and subnets, with Neutron's filters."""

    real: list[Port] = field(default_factory=list)
    cidrs: dict[str, str] = field(default_factory=dict)
    """The range of each network's subnet."""
    delay_seconds: float = 0.0
    unavailable: bool = False
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    on_call: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.open.set()

    def ports(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        self._enter(filters)
        found = [each for each in self.real if self._passes(each, filters)]
        return found[: int(str(filters["limit"]))] if "limit" in filters else found

    def subnets(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        self._enter({"subnets": True, **filters})
        return [
            Subnet(id=f"s-{network}", network_id=network, project_id="t", cidr=cidr, gateway_ip="10.0.0.1")
            for network, cidr in self.cidrs.items()
            if network in filters["network_id"]
        ]

    def _enter(self, filters: Mapping[str, Any]) -> None:
        self.calls.append(filters)
        assert self.open.wait(TIMEOUT_SECONDS)
        time.sleep(self.delay_seconds)
        self.on_call()
        if self.unavailable:
            raise ControlAwayError("connection refused")

    def _passes(self, each: Port, filters: Mapping[str, Any]) -> bool:
        have: dict[str, list[str]] = {
            "network_id": [each.network_id],
            "device_id": [each.device_id],
            "device_owner": [each.device_owner],
            "binding:host_id": [each.host],
            "mac_address": [each.mac_address],
            "fixed_ips": [f"ip_address={ip}" for ip in each.ip_addresses],
        }
        return all(
            set([wanted] if isinstance(wanted, str) else wanted).intersection(have[name])
            for name, wanted in filters.items()
            if name != "limit"
        )


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def with_queries(
    neutron: Neutron, clock: Clock, scenario: Callable[[PortQueries], Awaitable[Result]], **options: Any
) -> Result:
    async def main() -> Result:
        with ThreadPoolExecutor(8) as executor:
            queries = PortQueries(
                options.pop("index", AddressIndex()),
                neutron,
                executor=executor,
                clock=clock,
                is_watched=lambda: False,
                **{"found_seconds": FOUND_SECONDS, "max_age_seconds": MAX_AGE_SECONDS, **options},
            )
            return await scenario(queries)

    return asyncio.run(main())


def source(number: int, *, network: str | None = "net-1", router: str | None = None) -> ClientSource:
    return ClientSource(
        network_id=None if router else network, router_id=router, address=parse_address(address_of(number)), mac=""
    )


async def find(queries: PortQueries, *sources: ClientSource) -> list[list[str]]:
    found = await asyncio.gather(*(queries.find(each, TIMEOUT_SECONDS) for each in sources))
    return [[each.id for each in ports] for ports in found]


def ids(numbers: Sequence[int], network: str = "net-1") -> list[list[str]]:
    return [[f"{network}-p{number}"] for number in numbers]


# A burst of first requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_seconds", [0.0, 0.05])
def test_burst_on_one_network_needs_few_calls(delay_seconds: float) -> None:
    """A hundred new instances sent a hundred queries, most of which were answered after the requests had ended."""
    neutron = Neutron([port(n) for n in range(100)], delay_seconds=delay_seconds)

    async def scenario(queries: PortQueries) -> None:
        first = asyncio.create_task(find(queries, source(0)))
        await until_async(lambda: len(neutron.calls) == 1)
        rest = await find(queries, *(source(n) for n in range(1, 100)))
        assert await first == ids([0])
        assert rest == ids(range(1, 100))
        assert await find(queries, *(source(n) for n in range(100))) == ids(range(100))

    with_queries(neutron, Clock(), scenario)
    assert len(neutron.calls) == 2


def test_burst_behind_one_router_reads_the_router_once() -> None:
    neutron = Neutron([interface("net-1"), *(port(n) for n in range(50))], {"net-1": "10.0.0.0/16"})

    async def scenario(queries: PortQueries) -> None:
        first = asyncio.create_task(find(queries, source(0, router="r1")))
        await until_async(lambda: len(neutron.calls) >= 1)
        assert await find(queries, *(source(n, router="r1") for n in range(1, 50))) == ids(range(1, 50))
        await first

    with_queries(neutron, Clock(), scenario)
    assert len(neutron.calls) <= 5
    assert len([call for call in neutron.calls if "device_id" in call]) == 1
    assert len([call for call in neutron.calls if "subnets" in call]) == 1


def test_addresses_of_a_large_network_are_queried_in_calls_of_bounded_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_batch, "LISTING_PORTS", 20)
    neutron = Neutron([port(n) for n in range(300)])

    async def scenario(queries: PortQueries) -> None:
        assert await find(queries, *(source(n) for n in range(150))) == ids(range(150))
        assert await find(queries, *(source(n) for n in range(150, 300))) == ids(range(150, 300))

    with_queries(neutron, Clock(), scenario)
    listings = [call for call in neutron.calls if "limit" in call]
    assert len(listings) == 1, "the size of the network is known after the first list"
    for call in neutron.calls:
        values = call.get("fixed_ips", [])
        assert sum(len(f"&fixed_ips={value}") for value in values) < 4096


def test_burst_behind_a_router_matches_each_address_on_its_own_network_only() -> None:
    """A port of another network behind the router has an address of the burst."""
    impostor = replace(port(3, network="net-2"), id="impostor")
    neutron = Neutron(
        [interface("net-1"), replace(interface("net-2"), id="if-2"), impostor, *(port(n) for n in range(20) if n != 3)],
        {"net-1": "10.0.0.0/16", "net-2": "10.9.0.0/24"},
    )

    async def scenario(queries: PortQueries) -> list[list[str]]:
        return await find(queries, *(source(n, router="r1") for n in range(20)))

    found = with_queries(neutron, Clock(), scenario)
    assert found == [[] if n == 3 else [f"net-1-p{n}"] for n in range(20)]


def test_router_without_networks_finds_no_port_instead_of_all_ports() -> None:
    neutron = Neutron([port(n) for n in range(20)])

    async def scenario(queries: PortQueries) -> list[list[str]]:
        return await find(queries, *(source(n, router="r1") for n in range(20)))

    assert with_queries(neutron, Clock(), scenario) == [[]] * 20
    assert len(neutron.calls) == 1


def test_burst_by_mac_finds_ports_and_address_pairs() -> None:
    neutron = Neutron([port(n) for n in range(20)])
    sources = [replace(source(n), mac=f"fa:16:3e:00:00:{n:02x}") for n in range(20)]

    async def scenario(queries: PortQueries) -> list[list[str]]:
        return await find(queries, *sources)

    assert with_queries(neutron, Clock(), scenario, index=MacIndex()) == ids(range(20))
    assert len(neutron.calls) == 1


def test_flood_from_one_network_does_not_delay_another_network() -> None:
    neutron = Neutron([port(0, network="net-2")])
    neutron.open.clear()

    async def scenario(queries: PortQueries) -> None:
        flood = asyncio.create_task(find(queries, *(source(n) for n in range(500))))
        await until_async(lambda: len(neutron.calls) == 1)
        other = asyncio.create_task(find(queries, source(0, network="net-2")))
        await until_async(lambda: len(neutron.calls) == 2)
        neutron.open.set()
        assert await other == ids([0], "net-2")
        await flood

    with_queries(neutron, Clock(), scenario)


def test_number_of_waiting_queries_of_one_network_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_queries, "MAX_WAITING", 10)
    neutron = Neutron([port(0, network="net-2")])

    async def scenario(queries: PortQueries) -> None:
        tasks = [asyncio.create_task(queries.find(source(n), TIMEOUT_SECONDS)) for n in range(12)]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, ControlAwayError)]
        assert len(refused) == 2
        assert "net-2-p0" in str(await find(queries, source(0, network="net-2")))

    with_queries(neutron, Clock(), scenario)


# The age of results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("real", "ttl_seconds"), [([], NEGATIVE_TTL_SECONDS), ([port(0)], FOUND_SECONDS)], ids=["no port", "a port"]
)
def test_result_expires(real: list[Port], ttl_seconds: float) -> None:
    neutron, clock = Neutron(real), Clock()

    async def scenario(queries: PortQueries) -> None:
        expected = await find(queries, source(0))
        clock.advance(ttl_seconds - 0.1)
        assert await find(queries, source(0)) == expected
        assert len(neutron.calls) == 1
        clock.advance(0.2)
        assert await find(queries, source(0)) == expected
        assert len(neutron.calls) == 2

    with_queries(neutron, clock, scenario)


def test_response_after_the_end_of_its_request_serves_the_retry() -> None:
    """The result of a slow Neutron was dropped, so that the retry waited again."""
    neutron, clock = Neutron([port(0)]), Clock()
    neutron.open.clear()
    neutron.on_call = lambda: clock.advance(12)

    async def scenario(queries: PortQueries) -> None:
        with pytest.raises(ControlAwayError):
            await queries.find(source(0), 0.05)
        neutron.open.set()
        await until_async(lambda: clock.now > 1011)
        await asyncio.sleep(0.05)
        clock.advance(3)  # longer than the TTL
        assert await find(queries, source(0)) == ids([0])

    with_queries(neutron, clock, scenario, found_seconds=0.0)
    assert len(neutron.calls) == 1


def test_forgotten_result_is_queried_again() -> None:
    neutron = Neutron([port(n) for n in range(20)])

    async def scenario(queries: PortQueries) -> None:
        await find(queries, *(source(n) for n in range(20)))
        neutron.real = []
        assert queries.forget(source(0))
        assert not queries.forget(source(0))
        assert await find(queries, source(0)) == [[]]

    with_queries(neutron, Clock(), scenario)


def test_number_of_results_is_bounded() -> None:
    async def scenario(queries: PortQueries) -> int:
        for start in range(0, MAX_ENTRIES + 200, 100):
            await find(queries, *(source(start + n) for n in range(100)))
        return len(queries._recent)

    assert with_queries(Neutron(), Clock(), scenario) == MAX_ENTRIES


# While Neutron does not respond -------------------------------------------------------------------------------------


def test_instance_stays_known_up_to_the_maximum_age_while_neutron_is_away() -> None:
    neutron, clock = Neutron([interface("net-1"), port(0), port(1)], {"net-1": "10.0.0.0/16"}), Clock()

    async def scenario(queries: PortQueries) -> None:
        await find(queries, source(0), source(1, router="r1"))
        neutron.unavailable = True
        clock.advance(MAX_AGE_SECONDS - 1)
        for each, expected in ((source(0), "net-1-p0"), (source(1, router="r1"), "net-1-p1")):
            with pytest.raises(ControlAwayError):
                await queries.find(each, TIMEOUT_SECONDS)
            assert [found.id for found in queries.last_known(each)] == [expected]
            clock.advance(2 * port_queries.AWAY_SECONDS / 10)
        clock.advance(2)
        assert queries.last_known(source(0)) == ()
        assert queries.last_known(source(1, router="r1")) == ()

    with_queries(neutron, clock, scenario)


@pytest.mark.parametrize("burst", [1, 20])
def test_port_that_a_later_response_lacks_is_no_longer_known(burst: int) -> None:
    """The address has moved to a port of another instance."""
    neutron, clock = Neutron([port(n) for n in range(burst)]), Clock()

    async def scenario(queries: PortQueries) -> None:
        await find(queries, *(source(n) for n in range(burst)))
        neutron.real[0] = replace(port(0), id="new-owner")
        clock.advance(FOUND_SECONDS + 1)
        await find(queries, source(0))
        neutron.unavailable = True
        assert [found.id for found in queries.last_known(source(0))] == ["new-owner"]

    with_queries(neutron, clock, scenario)


def test_prefetched_ports_are_known_before_their_first_request() -> None:
    here = {"host": "node1"}
    neutron = Neutron([interface("net-1"), port(0, **here), port(1, host="node2")], {"net-1": "10.0.0.0/16"})

    async def scenario(queries: PortQueries) -> None:
        await queries.prefetch("node1")
        neutron.unavailable = True
        assert [found.id for found in queries.last_known(source(0))] == ["net-1-p0"]
        assert [found.id for found in queries.last_known(source(0, router="r1"))] == ["net-1-p0"]
        assert queries.last_known(source(1)) == ()
        neutron.unavailable = False
        neutron.real = [interface("net-1")]
        await queries.prefetch("node1")
        assert queries.last_known(source(0)) == ()

    with_queries(neutron, Clock(), scenario)
    assert len(neutron.calls) == 4


def test_link_local_client_behind_a_router_has_no_last_known_port() -> None:
    neutron = Neutron([interface("net-1"), port(0)], {"net-1": "10.0.0.0/16"})
    guest = ClientSource(
        network_id=None, router_id="r1", address=parse_address("fe80::f816:3eff:fe00:0"), mac="fa:16:3e:00:00:00"
    )

    async def scenario(queries: PortQueries) -> None:
        assert await find(queries, guest) == ids([0])
        assert queries.last_known(guest) == ()

    with_queries(neutron, Clock(), scenario)


def test_clients_without_a_known_port_are_not_refused_because_a_known_one_did_not_wait() -> None:
    neutron = Neutron([port(0), port(1)])

    async def scenario(queries: PortQueries) -> None:
        neutron.open.clear()
        with pytest.raises(ControlAwayError):
            await queries.find(source(0), 0.05, has_last=True)
        with pytest.raises(ControlAwayError, match="a moment ago"):
            await queries.find(source(0), 0.05, has_last=True)
        unknown = asyncio.create_task(find(queries, source(1)))
        await asyncio.sleep(0)
        neutron.open.set()
        assert await unknown == ids([1])

    with_queries(neutron, Clock(), scenario)


def test_log_has_the_reason_and_the_number_of_delayed_lookups() -> None:
    neutron, clock = Neutron([port(0)]), Clock()
    neutron.on_call = lambda: clock.advance(3)

    async def scenario(queries: PortQueries) -> list[Any]:
        with capture_logs() as logs:
            await find(queries, source(0))
            neutron.on_call = lambda: None
            clock.advance(100)
            await find(queries, source(0))
            neutron.unavailable = True
            clock.advance(100)
            with pytest.raises(ControlAwayError):
                await queries.find(source(0), TIMEOUT_SECONDS)
        return logs

    slow, again, away = with_queries(neutron, clock, scenario)
    assert slow["reasons"] == {"the control API is slow": 1}
    assert slow["slowest_response_seconds"] == 3.0
    assert again["event"] == "port lookups answered again"
    assert away["reasons"] == {"connection refused": 1}


# Notifications ------------------------------------------------------------------------------------------------------


def test_notified_change_drops_cached_and_last_known_ports() -> None:
    neutron, clock = Neutron([port(n, device_id=f"vm{n}") for n in range(3)]), Clock()

    async def scenario(queries: PortQueries) -> None:
        queries.use_ttl(300)
        await find(queries, source(0), source(1), source(2))
        clock.advance(100)
        neutron.real = [replace(port(0), id="new")]
        assert await find(queries, source(0), source(1)) == ids([0, 1])
        queries.invalidate(NotifiedChange(port_ids=frozenset({"net-1-p0"}), instance_ids=frozenset({"vm1"})))
        assert queries.last_known(source(0)) == queries.last_known(source(1)) == ()
        assert await find(queries, source(0), source(1), source(2)) == [["new"], [], ["net-1-p2"]]

    with_queries(neutron, clock, scenario)


def test_notified_change_on_another_network_has_no_effect() -> None:
    neutron = Neutron([interface("net-1"), *(port(n) for n in range(3))], {"net-1": "10.0.0.0/16"})
    elsewhere = NotifiedChange(port_ids=frozenset({"p"}), port_network_ids=frozenset({"net-9"}))
    here = NotifiedChange(port_ids=frozenset({"p"}), port_network_ids=frozenset({"net-1"}))

    async def scenario(queries: PortQueries) -> None:
        assert await find(queries, source(7, router="r1")) == [[]]
        await asyncio.sleep(0.01)
        before = len(neutron.calls)
        queries.invalidate(elsewhere)
        assert await find(queries, source(7, router="r1")) == [[]]
        assert len(neutron.calls) == before
        neutron.real.append(port(7))
        queries.invalidate(here)
        assert await find(queries, source(7, router="r1")) == ids([7])

    with_queries(neutron, Clock(), scenario)


def test_notified_change_of_a_router_drops_the_results_behind_it() -> None:
    neutron = Neutron([interface("net-1"), port(0)], {"net-1": "10.0.0.0/16"})

    async def scenario(queries: PortQueries) -> None:
        assert await find(queries, source(0, router="r1")) == ids([0])
        neutron.real = [port(0)]
        queries.invalidate(NotifiedChange(router_ids=frozenset({"r1"})))
        assert await find(queries, source(0, router="r1")) == [[]]

    with_queries(neutron, Clock(), scenario)


def test_end_of_notifications_drops_results_that_were_cached_for_longer() -> None:
    neutron, clock = Neutron([port(0)]), Clock()

    async def scenario(queries: PortQueries) -> None:
        queries.use_ttl(300)
        await find(queries, source(0))
        neutron.real = []
        queries.use_ttl(FOUND_SECONDS)
        assert await find(queries, source(0)) == [[]]

    with_queries(neutron, clock, scenario)


def test_notified_change_repeats_a_running_query() -> None:
    neutron = Neutron([port(0)])
    neutron.open.clear()

    async def scenario(queries: PortQueries) -> None:
        running = asyncio.create_task(queries.find(source(0), TIMEOUT_SECONDS))
        await until_async(lambda: len(neutron.calls) == 1)
        queries.invalidate(NotifiedChange(port_ids=frozenset({"another"})))
        neutron.open.set()
        with pytest.raises(StaleResultError):
            await running

    with_queries(neutron, Clock(), scenario)
