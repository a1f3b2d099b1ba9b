"""Queries to the control API for the ports at a source.

Requests from one network or router form batches. While a batch is under way, further requests wait for the next one. A
burst of new instances therefore costs a network a few calls, and the requests of one network do not delay those of another.

Rules of this file:

1. A result counts for the TTL of lookups. A result that took longer than LATE_SECONDS counts for as long as it took, so
   that the retry of a client finds a response that arrived after its request had ended.
2. Without a watch, the last known ports are used while the control API does not respond, up to the maximum age. A port
   counts as seen when the query was sent. A later response or notification without the port removes it.
3. A source whose identification needs all ports of its networks (rules 4 and 5 of `guest_identity/port_index.py`) has no
   last known port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from math import inf

from cachetools import LRUCache, TLRUCache

from openimds.agents.metadata.lookup.hold_queue import StaleResultError
from openimds.agents.metadata.lookup.last_known import LastKnownPorts, Listing
from openimds.agents.metadata.lookup.port_batch import (
    ROUTER_INTERFACES,
    PortBatch,
    RouterState,
    chunks,
    interfaces_on,
)
from openimds.agents.metadata.protocols import ControlAwayError, Ports
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.guest_identity.port_index import PortIndex
from openimds.guest_identity.port_match import ClientSource
from openimds.guest_identity.router_networks import is_router_interface
from openimds.resources.network import NotifiedChange, Port, Subnet

NEGATIVE_TTL_SECONDS = 1.0
"""TTL of an empty result. The mirror is read first, so a new port is found without a query."""
AWAY_SECONDS = 1.0
"""Time without further queries after the control API did not respond."""
GATHER_SECONDS = 0.005
"""Time in which the first requests of a burst gather."""
MAX_BATCH = 200
"""Maximum number of sources in one batch."""
MAX_BATCHES = 4
"""Maximum number of concurrent batches of one network or router, if changes overtake them: half of the threads."""
MAX_WAITING = 1000
"""Maximum number of sources of one network or router that wait. Its owner can send from any number of addresses."""
LATE_SECONDS = 2.0
MAX_LATE_SECONDS = 30.0
MAX_ENTRIES = 4096
"""Maximum number of cached results."""
SLOW = "the control API is slow"
QUEUED = "too many requests from one network wait"
_LATE_CHANGE_SECONDS = 0.05
"""Time after the end of a query in which a change still overtakes it. A waiting request continues in the event loop's
next iteration."""

Filters = Mapping[str, str | Sequence[str]]


@dataclass(slots=True, eq=False)
class _Query:
    source: ClientSource
    result: asyncio.Future[tuple[Port, ...]]
    is_overtaken: bool = False
    is_sent: bool = False


@dataclass(frozen=True, slots=True)
class _Result:
    ports: tuple[Port, ...]
    expires_at: float


class PortQueries:
    """Belongs to the event loop. `is_watched` returns whether changes are notified, so that results need no cache."""

    def __init__(  # noqa: PLR0913 - the adapters of a resolver
        self,
        index: PortIndex,
        ports: Ports,
        *,
        executor: Executor,
        clock: Callable[[], float],
        is_watched: Callable[[], bool],
        found_seconds: float,
        max_age_seconds: float = inf,
        throttled_log: ThrottledLog | None = None,
    ) -> None:
        self._index = index
        self._ports = ports
        self._executor = executor
        self._clock = clock
        self._is_watched = is_watched
        self._found_seconds = found_seconds
        self._log = throttled_log or ThrottledLog(clock)
        self._running: dict[ClientSource, _Query] = {}
        self._overtakable: set[_Query] = set()
        """The running queries and those that have just ended."""
        self._waiting: dict[str, dict[ClientSource, _Query]] = {}
        """The queries of the next batch, by network or router. A key exists while a task serves the scope."""
        self._tasks: dict[asyncio.Task[None], str] = {}
        """The tasks that send batches, with their network or router."""
        self._recent: TLRUCache[ClientSource, _Result] = TLRUCache(
            MAX_ENTRIES, lambda _source, result, _now: result.expires_at, timer=clock
        )
        self._lists: TLRUCache[str, _Result] = TLRUCache(
            MAX_ENTRIES, lambda _network, result, _now: result.expires_at, timer=clock
        )
        """All ports of a network, by network ID."""
        self._routers: TLRUCache[str, tuple[RouterState, float]] = TLRUCache(
            MAX_ENTRIES, lambda _router, entry, _now: entry[1], timer=clock
        )
        self._large: LRUCache[str, bool] = LRUCache(MAX_ENTRIES)
        """The networks with LISTING_PORTS or more ports."""
        self._seen: LRUCache[str, bool] = LRUCache(MAX_ENTRIES)
        """The networks and routers of earlier queries."""
        self._last = LastKnownPorts(index, clock, max_age_seconds)
        self._away: tuple[float, ControlAwayError] | None = None
        """The time until which no query is sent, and the reason."""
        self._slow_until = 0.0
        """The time until which clients with a last known port do not wait."""

    async def find(self, source: ClientSource, timeout_seconds: float, *, has_last: bool = False) -> tuple[Port, ...]:
        """Returns the ports that match. Raises ControlAwayError, also after the timeout, and StaleResultError.

        `has_last`: whether the caller can use a last known port instead. Its timeout then concerns no other client.
        """
        recent = self._recent.get(source)
        if recent is not None and not (recent.ports and self._is_watched()):
            return recent.ports  # a port found without a watch may have changed without a notification
        if self._away is not None and self._clock() < self._away[0]:
            raise self._away[1]
        if has_last and self._clock() < self._slow_until:
            raise ControlAwayError("the control API did not answer a moment ago")
        query = self._running.get(source) or self._start(source)
        try:
            async with asyncio.timeout(timeout_seconds):
                found = await asyncio.shield(query.result)  # other requests wait for the same query
        except TimeoutError:
            raise self._timed_out(query, timeout_seconds, has_last=has_last) from None
        if query.is_overtaken:
            raise StaleResultError
        return found

    def last_known(self, source: ClientSource) -> tuple[Port, ...]:
        """Returns the ports that matched according to earlier responses. Empty if a watch replaces them."""
        return () if self._is_watched() else self._last.candidates(source)

    def forget(self, source: ClientSource) -> bool:
        """Drops the cached result. Returns whether there was one."""
        self._lists.clear()
        return self._recent.pop(source, None) is not None

    def overtake(self, touched: Collection[Hashable]) -> None:
        """Invalidates the running queries whose source has one of the changed keys `touched`."""
        for query in self._overtakable:
            if any(key in touched for key in query.source.watch_keys):
                self._repeat(query)

    # Without a watch ----------------------------------------------------------------------------------------------

    def use_ttl(self, found_seconds: float) -> None:
        """Sets the TTL of results, because notifications begin or end. All cached results are dropped."""
        self._found_seconds = found_seconds
        self._drop_cached()

    def invalidate(self, change: NotifiedChange) -> None:
        """Drops everything that depends on resources that a notification names, and repeats the running queries.

        A notification does not name all sources that it concerns, and it is rare compared with lookups. Results of other
        ports therefore stay, and lists and empty results are dropped. Most notifications of a large cloud concern networks
        of other hosts, and have no effect.
        """
        if not self._concerns(change):
            return
        for source, result in list(self._recent.items()):
            concerned = (
                not result.ports or source.network_id in change.network_ids or source.router_id in change.router_ids
            )
            if concerned or any(_is_named(port, change) for port in result.ports):
                self._recent.pop(source, None)
        self._lists.clear()
        self._routers.clear()
        self._last.drop(lambda port: port.id in change.port_ids or port.device_id in change.instance_ids)
        for query in self._overtakable:
            self._repeat(query)

    def _concerns(self, change: NotifiedChange) -> bool:
        """Returns whether a change can concern a cached result, a last known port or a running query."""
        if self._tasks or change.instance_ids:
            return True  # the networks of a router are unknown until its first batch has ended
        places = change.router_ids | change.network_ids | change.port_network_ids
        is_unknown = bool(change.port_ids) and not change.port_network_ids
        return is_unknown or any(place in self._seen for place in places)

    async def prefetch(self, host: str) -> None:
        """Learns the ports of this host, and the routers of their networks, as last known ports.

        Raises ControlAwayError. Does nothing with a watch.
        """
        if self._is_watched() or self._index.requires_mac:
            return
        sent_at = self._clock()
        loop = asyncio.get_running_loop()
        listings, subnets = await loop.run_in_executor(self._executor, self._ports_of_host, host)
        for listing in listings:
            self._last.learn(listing, sent_at)
            self._seen.update((port.network_id, True) for port in listing.ports)
        self._last.learn_subnets(subnets)

    def _ports_of_host(self, host: str) -> tuple[list[Listing], list[Subnet]]:
        """Runs on a thread."""
        found = tuple(self._ports.ports({"binding:host_id": host}))
        listings = [Listing(found, lambda port: port.host == host)]
        networks = sorted({port.network_id for port in found})
        subnets: list[Subnet] = []
        for part in chunks(networks):
            here = frozenset(part)
            interfaces = filter(
                is_router_interface, self._ports.ports({"network_id": part, "device_owner": ROUTER_INTERFACES})
            )
            listings.append(Listing(tuple(interfaces), interfaces_on(here)))
            subnets += self._ports.subnets({"network_id": part})
        return listings, subnets

    # Batches ------------------------------------------------------------------------------------------------------

    def _timed_out(self, query: _Query, timeout_seconds: float, *, has_last: bool) -> ControlAwayError:
        if not query.is_sent:
            self._log.lookups_delayed(QUEUED)
            return ControlAwayError(f"too many queries about the same network: not sent within {timeout_seconds:g} s")
        self._log.lookups_delayed(SLOW)
        error = ControlAwayError(f"the control API did not answer within {timeout_seconds:g} s")
        if has_last:
            self._slow_until = self._clock() + AWAY_SECONDS
        else:
            self._away = (self._clock() + AWAY_SECONDS, error)
        return error

    def _start(self, source: ClientSource) -> _Query:
        scope = _scope(source)
        waiting = self._waiting.get(scope)
        if waiting is not None and len(waiting) >= MAX_WAITING:
            self._log.lookups_delayed(QUEUED)
            raise ControlAwayError(f"more than {MAX_WAITING} queries about the same network wait")
        loop = asyncio.get_running_loop()
        query = _Query(source, loop.create_future())
        self._running[source] = query
        self._seen[scope] = True
        self._overtakable.add(query)
        if waiting is None:
            waiting = self._waiting[scope] = {}
            task = loop.create_task(self._serve(scope, waiting))
            self._tasks[task] = scope
            task.add_done_callback(self._tasks.pop)
        waiting[source] = query
        return query

    async def _serve(self, scope: str, waiting: dict[ClientSource, _Query]) -> None:
        """Sends the batches of one network or router, one after the other."""
        try:
            await asyncio.sleep(GATHER_SECONDS)
            while waiting:
                await self._send([waiting.pop(source) for source in list(waiting)[:MAX_BATCH]])
        finally:
            if self._waiting.get(scope) is waiting:
                del self._waiting[scope]

    async def _send(self, queries: Sequence[_Query]) -> None:
        sources = [query.source for query in queries]
        for query in queries:
            query.is_sent = True
        batch = PortBatch(
            self._index,
            self._ports,
            sources,
            is_watched=self._is_watched,
            router=self._cached_router(sources[0]),
            lists={network_id: result.ports for network_id, result in self._lists.items()},
            large=frozenset(self._large),
        )
        sent_at = self._clock()
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._executor, batch.run)
        except Exception as error:  # noqa: BLE001 - each request of the batch raises the error
            away = error if isinstance(error, ControlAwayError) else ControlAwayError(f"the query failed: {error!r}")
            self._away = (self._clock() + AWAY_SECONDS, away)
            self._log.lookups_delayed(str(away), len(queries))
            for query in queries:
                self._finish(query)
                query.result.set_exception(away)
                query.result.exception()  # the requests may have ended
            return
        self._log.lookups_answered(self._clock() - sent_at, len(queries))
        is_overtaken = any(query.is_overtaken for query in queries)
        self._learn(batch, sent_at, is_overtaken=is_overtaken)
        for query in queries:
            self._finish(query)
            ports = found[query.source]
            if not query.is_overtaken and (not ports or not self._is_watched()):
                self._recent[query.source] = _Result(ports, self._expires_at(sent_at, is_found=bool(ports)))
            query.result.set_result(ports)

    def _repeat(self, query: _Query) -> None:
        """Marks a running query as overtaken. Later queries of its scope do not wait for its batch."""
        query.is_overtaken = True
        self._end(query)
        scope = _scope(query.source)
        if query.is_sent and list(self._tasks.values()).count(scope) < MAX_BATCHES:
            self._waiting.pop(scope, None)

    def _finish(self, query: _Query) -> None:
        self._end(query)
        query.result.get_loop().call_later(_LATE_CHANGE_SECONDS, self._overtakable.discard, query)

    def _end(self, query: _Query) -> None:
        """Later requests start a query of their own."""
        if self._running.get(query.source) is query:
            del self._running[query.source]

    def _learn(self, batch: PortBatch, sent_at: float, *, is_overtaken: bool) -> None:
        """Caches what a batch has found besides its results."""
        self._large.update(dict.fromkeys(batch.large, True))
        self._seen.update(dict.fromkeys(batch.router.attached if batch.router is not None else (), True))
        if is_overtaken or self._is_watched():
            return
        expires_at = self._expires_at(sent_at, is_found=True)
        for network_id, ports in batch.listed.items():
            self._lists[network_id] = _Result(ports, expires_at)
        if batch.router is not None and batch.router.interfaces:
            self._routers[batch.router_id] = (batch.router, expires_at)
            self._last.learn_subnets(batch.router.subnets.values())
        for listing in batch.listings:
            self._last.learn(listing, sent_at)

    def _cached_router(self, source: ClientSource) -> RouterState | None:
        entry = self._routers.get(source.router_id) if source.router_id else None
        return entry[0] if entry is not None and not self._is_watched() else None

    def _expires_at(self, sent_at: float, *, is_found: bool) -> float:
        now = self._clock()
        ttl_seconds = self._found_seconds if is_found else NEGATIVE_TTL_SECONDS
        took_seconds = now - sent_at
        if took_seconds > LATE_SECONDS:
            ttl_seconds = max(ttl_seconds, min(took_seconds, MAX_LATE_SECONDS))
        return now + ttl_seconds

    def _drop_cached(self) -> None:
        self._recent.clear()
        self._lists.clear()
        self._routers.clear()


def _scope(source: ClientSource) -> str:
    return source.router_id or source.network_id or ""


def _is_named(port: Port, change: NotifiedChange) -> bool:
    return port.id in change.port_ids or port.network_id in change.network_ids or port.device_id in change.instance_ids
