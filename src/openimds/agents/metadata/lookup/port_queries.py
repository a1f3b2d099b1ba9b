"""Queries to the control API for the ports at a source. Equal queries at the same moment share one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from cachetools import TLRUCache

from openimds.agents.metadata.lookup.hold_queue import StaleResultError
from openimds.agents.metadata.protocols import ControlAwayError, Ports
from openimds.agents.metadata.proxy.per_key_limiter import PerKeyLimiter
from openimds.guest_identity.port_index import PortIndex, are_of_one_project, must_be_of_one_project
from openimds.guest_identity.port_match import ClientSource
from openimds.guest_identity.router_networks import RouterSubnets, is_router_interface
from openimds.resources.network import Port

NEGATIVE_TTL_SECONDS = 1.0
"""TTL of an empty result. The mirror is read first, so a new port is found without a query."""
AWAY_SECONDS = 1.0
"""Time without further queries after the control API did not respond."""
MAX_QUERIES_PER_SCOPE = 4
"""Maximum number of concurrent queries about one network or router: half of the threads. The owner of a network can send
requests from any number of addresses and MACs, and clients of other networks must not wait for the queries of these."""
_LATE_CHANGE_SECONDS = 0.05
"""Time after the end of a query in which a change still overtakes it. A waiting request continues in the event loop's
next iteration."""
MAX_ENTRIES = 4096
"""Maximum number of cached results."""


@dataclass(slots=True, eq=False)
class _Query:
    source: ClientSource
    task: asyncio.Task[tuple[Port, ...]] = field(init=False)
    is_overtaken: bool = False
    is_sent: bool = False


class PortQueries:
    """Belongs to the event loop. `is_watched` returns whether changes are notified, so that results need no cache."""

    def __init__(
        self,
        index: PortIndex,
        ports: Ports,
        *,
        executor: Executor,
        clock: Callable[[], float],
        is_watched: Callable[[], bool],
        found_seconds: float,
    ) -> None:
        self._index = index
        self._ports = ports
        self._executor = executor
        self._clock = clock
        self._is_watched = is_watched
        self._found_seconds = found_seconds
        self._running: dict[ClientSource, _Query] = {}
        self._overtakable: set[_Query] = set()
        """The running queries and those that have just ended."""
        self._recent: TLRUCache[ClientSource, tuple[Port, ...]] = TLRUCache(MAX_ENTRIES, self._expires_at, timer=clock)
        self._away_until = 0.0
        self._limiter = PerKeyLimiter(MAX_QUERIES_PER_SCOPE)

    async def find(self, source: ClientSource, timeout_seconds: float) -> tuple[Port, ...]:
        """Returns the ports that match. Raises ControlAwayError, also after the timeout, and StaleResultError."""
        recent = self._recent.get(source)
        if recent is not None and not (recent and self._is_watched()):
            return recent  # a port found without a watch may have changed without a notification
        if self._clock() < self._away_until:
            raise ControlAwayError("the control API did not answer a moment ago")
        query = self._running.get(source) or self._start(source)
        try:
            async with asyncio.timeout(timeout_seconds):
                found = await asyncio.shield(query.task)  # other requests wait for the same query
        except TimeoutError:
            raise self._timed_out(query, timeout_seconds) from None
        if query.is_overtaken:
            raise StaleResultError
        return found

    def forget(self, source: ClientSource) -> bool:
        """Drops the cached result. Returns whether there was one."""
        return self._recent.pop(source, None) is not None

    def overtake(self, touched: Collection[Hashable]) -> None:
        """Invalidates the running queries whose source has one of the changed keys `touched`."""
        for query in self._overtakable:
            if any(key in touched for key in query.source.watch_keys):
                query.is_overtaken = True
                self._end(query)

    def _timed_out(self, query: _Query, timeout_seconds: float) -> ControlAwayError:
        if not query.is_sent:
            return ControlAwayError(f"too many queries about the same network: not sent within {timeout_seconds:g} s")
        self._away_until = self._clock() + AWAY_SECONDS
        return ControlAwayError(f"the control API did not answer within {timeout_seconds:g} s")

    def _start(self, source: ClientSource) -> _Query:
        query = _Query(source)
        query.task = asyncio.get_running_loop().create_task(self._run(query))
        query.task.add_done_callback(lambda _task: self._finish(query))
        self._running[source] = query
        self._overtakable.add(query)
        return query

    def _finish(self, query: _Query) -> None:
        self._end(query)
        query.task.get_loop().call_later(_LATE_CHANGE_SECONDS, self._overtakable.discard, query)
        if query.task.cancelled() or query.task.exception() is not None:
            self._away_until = self._clock() + AWAY_SECONDS
        elif not query.is_overtaken:
            self._cache(query.source, query.task.result())

    def _end(self, query: _Query) -> None:
        """Later requests start a query of their own."""
        if self._running.get(query.source) is query:
            del self._running[query.source]

    def _cache(self, source: ClientSource, found: tuple[Port, ...]) -> None:
        if not found or not self._is_watched():
            self._recent[source] = found

    def _expires_at(self, _source: ClientSource, found: tuple[Port, ...], now: float) -> float:
        return now + (self._found_seconds if found else NEGATIVE_TTL_SECONDS)

    async def _run(self, query: _Query) -> tuple[Port, ...]:
        scope = query.source.router_id or query.source.network_id or ""
        await self._limiter.take(scope)
        try:
            query.is_sent = True
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, self._fetch, query.source)
        finally:
            self._limiter.give_back(scope)

    def _fetch(self, source: ClientSource) -> tuple[Port, ...]:
        """Returns the matching ports of the control API. Runs on a thread."""
        networks, attached = self._networks(source)
        if not networks:
            return ()  # a request without a filter would list the ports of all networks
        if must_be_of_one_project(source, attached) and not self._are_of_one_project(attached):
            return ()
        for filters in self._index.query_filters(source):
            found = self._ports.ports({"network_id": networks, **filters})
            matches = self._index.matching([port for port in found if port.network_id in networks], source)
            if matches or self._is_watched():
                return matches  # with a watch, the mirror has the matches of the other filters
        return ()

    def _are_of_one_project(self, attached: list[str]) -> bool:
        found = self._ports.ports({"network_id": attached})
        return are_of_one_project(port for port in found if port.network_id in attached)

    def _networks(self, source: ClientSource) -> tuple[list[str], list[str]]:
        """Returns the networks that the source can be on, and all networks of its namespace."""
        if source.network_id:
            return [source.network_id], [source.network_id]
        found = self._ports.ports({"device_id": source.router_id or ""})
        # The filter matches text that tenants can write. The decoded port has the recorded attachment.
        interfaces = [port for port in found if is_router_interface(port) and port.device_id == source.router_id]
        attached = sorted({port.network_id for port in interfaces})
        if not attached:
            return [], []
        subnets = {subnet.id: subnet for subnet in self._ports.subnets({"network_id": attached})}
        return sorted(RouterSubnets(interfaces, subnets).networks(source.address, source.device)), attached
