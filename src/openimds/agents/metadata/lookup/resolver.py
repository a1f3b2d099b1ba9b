"""Resolves the origin of a request to the one port that it comes from.

Each step is used if the step before it gives no result:

1. The binding of an earlier request from the same origin. A change of a port with the same MAC or address, or of the
   router's interfaces and subnets, ends it.
2. The mirror, while its watch is current. An address that moved is never resolved to its former port.
3. One query to the control API: before a client is rejected, and for all clients while the watch is not current. A query
   that a change overtook is repeated.
4. The mirror's last state while the control API is unavailable, for `LookupPolicy.max_age_seconds` at most. Without a
   watch, the ports of earlier responses, for the same time.
5. The hold queue. A request whose port is not ready waits for a change that concerns it. In direct mode, a request of a
   client whose MAC cannot be determined is not held.

The index decides how ports match: by address in haproxy mode, by address and MAC in direct mode.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from math import inf
from typing import Any, NamedTuple

from openimds.agents.metadata.lookup.hold_queue import HoldQueue
from openimds.agents.metadata.lookup.port_queries import PortQueries
from openimds.agents.metadata.protocols import (
    ControlAwayError,
    ControlRefusedError,
    Neighbours,
    PortMirror,
    Ports,
    PortView,
)
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.guest_identity.addresses import device_in, parse_address
from openimds.guest_identity.port_index import PortIndex
from openimds.guest_identity.port_match import Binding, ClientSource, NoSinglePort, PortLookupRefused, PortNotReady
from openimds.resources.network import NotifiedChange, Port

MAX_BINDINGS = 20_000
HOLD_SECONDS = 8.0
"""Less than the 10 s after which cloud-init gives up."""
FOUND_SECONDS = 2.0
"""The requests of one boot arrive within this time."""
NOTIFIED_SECONDS = 300.0
"""TTL of a query result without a watch while Neutron's notifications arrive."""
PREFETCH_SECONDS = 60.0
"""Interval of the queries for the ports of this host without a watch."""
QUERY_SECONDS = 7.5
"""Timeout of a query to the control API. Less than HOLD_SECONDS, so that its end has a reason in the log."""
KNOWN_QUERY_SECONDS = 1.0
"""Timeout of a query for a client that the mirror's last state knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupPolicy:
    found_seconds: float = FOUND_SECONDS
    """TTL of a query result without a watch (a real Neutron)."""
    max_age_seconds: float = inf
    """Maximum age of the mirror's state."""
    hold_seconds: float = HOLD_SECONDS


class ClientOrigin(NamedTuple):
    """The place that a request comes from, as the connection or the namespace proxy states it."""

    listener: str
    """`network:<id>` or `router:<id>`. Empty if a namespace proxy names neither."""
    peer: str
    """The client's address. A link-local address has its device behind a `%` if the device is known."""
    mac: str = ""
    """The MAC that opened the connection. Empty if it is unknown."""


class PortResolver:
    """Belongs to the event loop. Queries run on `executor`. `clock` returns monotonic seconds."""

    def __init__(  # noqa: PLR0913 - the adapters of a program
        self,
        index: PortIndex,
        mirror: PortMirror,
        ports: Ports,
        neighbours: Neighbours,
        *,
        executor: Executor,
        clock: Callable[[], float],
        policy: LookupPolicy | None = None,
        is_eager: bool = False,
        count: Callable[[str], None] = lambda _outcome: None,
        on_touched: Callable[[frozenset[Hashable]], None] = lambda _touched: None,
        throttled_log: ThrottledLog | None = None,
    ) -> None:
        """`is_eager`: the index follows each view, not only while requests or bindings depend on it.

        `count` receives the outcome of each lookup: found, none, several or unknown.

        `on_touched` receives the keys of each change (`PortIndex.update`).
        """
        policy = policy or LookupPolicy()
        self._index = index
        self._mirror = mirror
        self._neighbours = neighbours
        self._executor = executor
        self._max_age_seconds = policy.max_age_seconds
        self._found_seconds = policy.found_seconds
        self._is_eager = is_eager
        self._count = count
        self._on_touched = on_touched
        self._hold_queue = HoldQueue(policy.hold_seconds)
        self._queries = PortQueries(
            index,
            ports,
            executor=executor,
            clock=clock,
            is_watched=self._is_current,
            found_seconds=policy.found_seconds,
            max_age_seconds=policy.max_age_seconds,
            throttled_log=throttled_log,
        )
        self._indexed_ports: object = None
        self._indexed_subnets: object = None
        self._bindings: dict[ClientOrigin, Binding] = {}
        self._origins_by_key: dict[Hashable, set[ClientOrigin]] = {}
        self._last_ports: Mapping[str, Port] = {}
        """The ports of the last view. Belongs to the mirror's thread."""
        self._touched: deque[frozenset[Hashable]] = deque()
        """The keys of the changes of all views since the last `refresh`. The mirror's thread appends them."""
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Subscribes to the mirror. Called from the event loop."""
        self._loop = asyncio.get_running_loop()
        self._mirror.subscribe(self.on_view)
        self.refresh()

    def cached(self, origin: ClientOrigin) -> Binding | None:
        """Returns the binding of an earlier request from this origin. None if it must be resolved."""
        binding = self._bindings.get(origin)
        return binding if binding is not None and self.trusts(binding) else None

    def trusts(self, binding: Binding) -> bool:
        """Returns whether a binding is still valid. Called for each request."""
        mirror = self._mirror  # the same checks as in `_is_current`, without its calls
        view = mirror.view()
        return (
            binding.is_valid
            and mirror.connected
            and mirror.age_seconds <= self._max_age_seconds
            and view.ports is self._indexed_ports
            and view.subnets is self._indexed_subnets
        )

    async def resolve(self, origin: ClientOrigin) -> Binding:
        """Returns the binding of a client.

        Raises NoSinglePort, or PortNotReady after the hold time. Raises ValueError for a malformed listener or address.
        """
        self.refresh()
        binding = self.cached(origin)
        try:
            if binding is None:
                binding = await self._resolve(origin)
        except NoSinglePort as error:
            self._count(error.outcome)
            raise
        except PortNotReady:
            self._count("unknown")
            raise
        self._count("found")
        return binding

    async def resolve_again(self, binding: Binding) -> Binding | None:
        """Returns the binding of another instance at the same source, if a cached query result was used before.

        None if no cached result was used, and if the source still belongs to the same instance or to none.
        """
        source = binding.source
        if not self._queries.forget(source):
            return None
        try:
            port = await self._hold_queue.hold(lambda: self._decide(source), source.watch_keys)
        except (NoSinglePort, PortNotReady):
            return None
        return None if port.device_id == binding.port.device_id else Binding(source, port, is_valid=False)

    def refresh(self) -> None:
        """Updates the index to the mirror's current view, and ends bindings, queries and waits that it concerns."""
        view = self._mirror.view()
        if view.ports is self._indexed_ports and view.subnets is self._indexed_subnets:
            return
        touched = self._index.update(view.ports, view.subnets)
        self._indexed_ports, self._indexed_subnets = view.ports, view.subnets
        while self._touched:
            touched |= self._touched.popleft()
        self._queries.overtake(touched)
        for key in self._origins_by_key.keys() & touched:
            for origin in tuple(self._origins_by_key.get(key, ())):
                self._forget(origin)
        self._on_touched(touched)
        self._hold_queue.wake(touched)

    async def prefetch_host(self, host: str) -> None:
        """Fetches the ports of a host again and again, until it is cancelled. Does nothing with a watch."""
        while True:
            with contextlib.suppress(ControlAwayError):
                await self._queries.prefetch(host)
            await asyncio.sleep(PREFETCH_SECONDS)

    def on_notifications(self, *, are_live: bool) -> None:
        """Caches results for longer while notifications of changes arrive."""
        seconds = min(NOTIFIED_SECONDS, self._max_age_seconds) if are_live else self._found_seconds
        self._queries.use_ttl(seconds)

    def on_notified(self, change: NotifiedChange) -> None:
        """Receives the resources that a notification names."""
        self._queries.invalidate(change)
        self._hold_queue.wake_all()

    def on_view(self, view: PortView) -> None:
        """Receives each view on the mirror's thread: a port can change twice before the event loop reads a view."""
        touched = self._index.touched_between(self._last_ports, view.ports)
        self._last_ports = view.ports
        if touched:
            self._touched.append(touched)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._follow)

    def _follow(self) -> None:
        if self._is_eager or self._bindings or len(self._hold_queue):
            self.refresh()
        else:
            self._touched.clear()  # nothing depends on these changes

    async def _resolve(self, origin: ClientOrigin) -> Binding:
        peer = origin.peer
        if not origin.listener:
            raise NoSinglePort("none", "the request names neither its network nor its router")
        source = self._index.source(origin.listener, parse_address(peer), origin.mac, device_in(peer))
        if self._index.needs_neighbours(source):
            source = await self._with_neighbour_mac(source)
        port = await self._hold_queue.hold(lambda: self._decide(source), source.watch_keys)
        # The change of a port at another place does not end a binding.
        if source.is_mac_from_neighbours or self._index.is_uncertain(source):
            return Binding(source, port, is_valid=False)
        return self._bind(origin, source, port)

    async def _with_neighbour_mac(self, source: ClientSource) -> ClientSource:
        mac = await asyncio.get_running_loop().run_in_executor(
            self._executor, self._neighbours.mac_of, source.network_id, source.router_id, source.address
        )
        if not mac and self._index.requires_mac:
            raise PortNotReady(f"neither the connection nor the neighbour table has the MAC of {source}")
        return replace(source, mac=(mac or "").lower(), is_mac_from_neighbours=True)

    async def _decide(self, source: ClientSource) -> Port:
        """Raises NoSinglePort, PortNotReady, or StaleResultError if a change overtook the query."""
        self.refresh()
        known = self._index.candidates(source)
        if known and self._is_current():
            return self._index.single(known, source)
        fallback = (known if self._is_fresh() else ()) or self._queries.last_known(source)
        try:
            timeout_seconds = KNOWN_QUERY_SECONDS if fallback else QUERY_SECONDS
            found = await self._queries.find(source, timeout_seconds, has_last=bool(fallback))
        except ControlAwayError as error:
            if fallback:
                return self._index.single(fallback, source)
            if isinstance(error, ControlRefusedError):
                raise PortLookupRefused(str(error), error.retry_seconds) from None
            last = f"the last known state of {source} is too old" if known else f"nothing is known of {source}"
            raise PortNotReady(f"{last}, and {error}") from None
        return self._index.single(found, source)

    def _is_current(self) -> bool:
        return self._mirror.connected and self._is_fresh()

    def _is_fresh(self) -> bool:
        return self._mirror.age_seconds <= self._max_age_seconds

    def _bind(self, origin: ClientOrigin, source: ClientSource, port: Port) -> Binding:
        """Caches the binding if the mirror has this very port, because only then its end is notified."""
        self._forget(origin)
        if not self._index.holds(port):
            return Binding(source, port, is_valid=False)
        binding = Binding(source, port)
        if len(self._bindings) >= MAX_BINDINGS:
            self._forget(next(iter(self._bindings)))
        self._bindings[origin] = binding
        for key in source.watch_keys:
            self._origins_by_key.setdefault(key, set()).add(origin)
        return binding

    def _forget(self, origin: ClientOrigin) -> None:
        binding = self._bindings.pop(origin, None)
        if binding is None:
            return
        binding.is_valid = False
        for key in binding.source.watch_keys:
            origins: set[Any] = self._origins_by_key.get(key, set())
            origins.discard(origin)
            if not origins:
                self._origins_by_key.pop(key, None)
