"""The cached results of queries for ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests import builders

from openimds.agents.metadata.lookup.port_queries import MAX_ENTRIES, NEGATIVE_TTL_SECONDS, PortQueries
from openimds.guest_identity.addresses import parse_address
from openimds.guest_identity.port_index import AddressIndex
from openimds.guest_identity.port_match import ClientSource
from openimds.resources.network import Port, Subnet

FOUND_SECONDS = 5.0


class NoPorts:
    def ports(self, _filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        return ()

    def subnets(self, _filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        return ()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queries(clock: Clock) -> Iterator[PortQueries]:
    with ThreadPoolExecutor(1) as executor:
        yield PortQueries(
            AddressIndex(),
            NoPorts(),
            executor=executor,
            clock=clock,
            is_watched=lambda: False,
            found_seconds=FOUND_SECONDS,
        )


def source(address: str = "10.0.0.5") -> ClientSource:
    return ClientSource(network_id="net-1", router_id=None, address=parse_address(address), mac="")


@pytest.mark.parametrize(
    ("ports", "ttl_seconds"),
    [((), NEGATIVE_TTL_SECONDS), ((builders.port("p1", "fa:16:3e:00:00:01"),), FOUND_SECONDS)],
    ids=["no port", "a port"],
)
def test_result_expires(queries: PortQueries, clock: Clock, ports: tuple[Port, ...], ttl_seconds: float) -> None:
    queries._cache(source(), ports)
    clock.now += ttl_seconds - 0.1
    assert queries._recent.get(source()) == ports
    clock.now += 0.1
    assert queries._recent.get(source()) is None


def test_forgotten_result_is_reported(queries: PortQueries) -> None:
    queries._cache(source(), ())
    assert queries.forget(source())
    assert not queries.forget(source())


def test_number_of_results_is_bounded(queries: PortQueries) -> None:
    for number in range(MAX_ENTRIES + 10):
        queries._cache(source(f"10.1.{number // 250}.{number % 250}"), ())
    assert queries._recent.get(source("10.1.0.9")) is None
    assert queries._recent.get(source("10.1.0.10")) == ()
