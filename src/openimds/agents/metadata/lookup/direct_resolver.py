"""Who asks, where the agent itself listens in the namespaces: from a connection's listener, address and MAC to a port.

1. What is known is kept as a Binding, and ends when the mirror hears of a change of any port with that MAC, or of the
   router's interfaces.
2. The mirror, while its watch is alive. An address that moved while the news is on its way is nobody's yet: its new
   owner has another MAC than the mirror's.
3. One look at the control API for whom the mirror does not know, and for everybody while there is no living watch. A
   look that a change overtook is made again.
4. What the mirror knew last, while the control API is away, but no longer than `Belief.max_age_seconds`: the MAC still proves
   that an address did not move, but not that its port was not given to another instance.
5. Who cannot be told yet is held for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Protocol

from openimds.agents.metadata.lookup.hold_queue import HoldQueue
from openimds.agents.metadata.lookup.policy import KNOWN_LOOK_SECONDS, LOOK_SECONDS, LookupPolicy
from openimds.agents.metadata.lookup.port_queries import PortQueries
from openimds.agents.metadata.protocols import ControlAwayError, Mirror, Neighbours, Ports, View
from openimds.guest_identity.addresses import device_in, parse_address
from openimds.guest_identity.port_match import (
    Binding,
    ClientSource,
    MacIndex,
    NoSinglePort,
    PortNotReady,
    source_of,
    the_one,
    touched_between,
)
from openimds.resources.network import Port

MAX_BINDINGS = 20_000

_Key = tuple[str, str, str]


class WatchedMirror(Mirror, Protocol):
    def subscribe(self, callback: Callable[[Any], None]) -> None:
        """Calls back with every new view, from a thread of its own."""


class DirectPortResolver:
    """Belongs to the event loop; looks run on `executor`. `clock` gives seconds that never go back."""

    def __init__(  # noqa: PLR0913 - the parts that a daemon joins
        self,
        mirror: WatchedMirror,
        ports: Ports,
        neighbours: Neighbours,
        *,
        executor: Executor,
        clock: Callable[[], float],
        belief: LookupPolicy,
        count: Callable[[str], None] = lambda _outcome: None,
        tell: Callable[[frozenset[str]], None] = lambda _touched: None,
    ) -> None:
        """`count` is told every search's outcome: found, none, several, unknown; `tell`: the MACs and router ids of
        which something changed.
        """
        self._mirror = mirror
        self._neighbours = neighbours
        self._executor = executor
        self._max_age_seconds = belief.max_age_seconds
        self._count = count
        self._tell = tell
        self._holding = HoldQueue(belief.hold_seconds)
        self._looks = PortQueries(
            ports, executor=executor, clock=clock, is_watched=self._keeps_up, found_seconds=belief.found_seconds
        )
        self._index = MacIndex()
        self._indexed_ports: object = None
        self._indexed_subnets: object = None
        self._bindings: dict[_Key, Binding] = {}
        self._touched_by: dict[str, set[_Key]] = {}
        self._heard_ports: Mapping[str, Port] = {}
        """The mirror's thread's own: of the view that it heard last."""
        self._touched: deque[frozenset[str]] = deque()
        """What views changed that came and went between two looks at the mirror."""
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """From the event loop: hear the mirror's news from now on."""
        self._loop = asyncio.get_running_loop()
        self._mirror.subscribe(self._hear)
        self.refresh()

    def at_once(self, listener: str, peer: str, mac: str) -> Binding | None:
        """Whom this connection is known to come from; None: `find` tells."""
        binding = self._bindings.get((listener, peer, mac))
        if binding is None or not self.trusts(binding):
            return None
        self._count("found")
        return binding

    def trusts(self, binding: Binding) -> bool:
        """May a request be answered by what was found before? Asked at every request."""
        mirror = self._mirror  # as `_keeps_up`, without the calls
        view = mirror.view()
        return (
            binding.good
            and mirror.connected
            and mirror.age_seconds <= self._max_age_seconds
            and view.ports is self._indexed_ports
            and view.subnets is self._indexed_subnets
        )

    def _keeps_up(self) -> bool:
        return self._mirror.connected and self._is_fresh()

    def _is_fresh(self) -> bool:
        return self._mirror.age_seconds <= self._max_age_seconds

    async def find(self, listener: str, peer: str, mac: str) -> Binding:
        """Who asks. `listener`: `network:<id>` or `router:<id>`; `peer`: an address, of a link-local one with the
        device behind a `%`; `mac` empty: the namespace's neighbour table tells.

        Raises NobodyAsks, NotKnownYet; ValueError when listener or peer is not what it must be.
        """
        self.refresh()
        known = self.at_once(listener, peer, mac)
        if known is not None:
            return known
        source = source_of(listener, parse_address(peer), mac, device_in(peer))
        try:
            binding = await self._find((listener, peer, mac), source)
        except NoSinglePort as nobody:
            self._count(nobody.outcome)
            raise
        except PortNotReady:
            self._count("unknown")
            raise
        self._count("found")
        return binding

    async def _find(self, key: _Key, source: ClientSource) -> Binding:
        if source.mac:
            port = await self._holding.held(lambda: self._judge(source), _touching(source))
            return self._bound(key, source, port)
        by_mac = await self._by_neighbours(key[0], source)
        # Of this one request: the MAC is not the connection's own.
        port = await self._holding.held(lambda: self._judge(by_mac), _touching(by_mac))
        return Binding(by_mac, port, good=False)

    def refresh(self) -> None:
        """Bring everything to the mirror's newest view."""
        view = self._mirror.view()
        if view.ports is self._indexed_ports and view.subnets is self._indexed_subnets:
            return
        touched = self._index.update(view.ports, view.subnets)
        self._indexed_ports, self._indexed_subnets = view.ports, view.subnets
        while self._touched:
            touched |= self._touched.popleft()
        self._looks.overtake(touched)
        for one in touched:
            for key in tuple(self._touched_by.get(one, ())):
                self._forget(key)
        self._tell(touched)
        self._holding.heard(touched)

    def _hear(self, view: View) -> None:
        """In the mirror's thread, once for every view: a port may be another's and gone before the event loop looks."""
        touched = touched_between(self._heard_ports, view.ports)
        self._heard_ports = view.ports
        if touched:
            self._touched.append(touched)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.refresh)

    async def _judge(self, source: ClientSource) -> Port:
        """Raises NobodyAsks, NotKnownYet, OvertakenError."""
        self.refresh()
        known = self._index.candidates(source)
        if known and self._keeps_up():
            return the_one(known, source)
        is_believed = bool(known) and self._is_fresh()
        try:
            return the_one(await self._looks.look(source, KNOWN_LOOK_SECONDS if is_believed else LOOK_SECONDS), source)
        except ControlAwayError as error:
            if is_believed:
                return the_one(known, source)
            known_last = f"what was known of {source} is too old" if known else f"nothing is known of {source}"
            raise PortNotReady(f"{known_last}, and {error}") from None

    async def _by_neighbours(self, listener: str, source: ClientSource) -> ClientSource:
        mac = await asyncio.get_running_loop().run_in_executor(
            self._executor, self._neighbours.mac_of, source.network_id, source.router_id, source.address
        )
        if not mac:
            raise PortNotReady(f"neither the connection nor the neighbour table tells the MAC of {source}")
        return source_of(listener, source.address, mac, source.device)

    def _bound(self, key: _Key, source: ClientSource, port: Port) -> Binding:
        """Kept only where the mirror has this very port: of no other would it be heard that it is gone."""
        self._forget(key)
        if not self._index.holds(port):
            return Binding(source, port, good=False)
        binding = Binding(source, port)
        if len(self._bindings) >= MAX_BINDINGS:
            self._forget(next(iter(self._bindings)))
        self._bindings[key] = binding
        for one in _touching(binding.source):
            self._touched_by.setdefault(one, set()).add(key)
        return binding

    def _forget(self, key: _Key) -> None:
        binding = self._bindings.pop(key, None)
        if binding is None:
            return
        binding.good = False
        for one in _touching(binding.source):
            keys = self._touched_by.get(one)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._touched_by[one]


def _touching(source: ClientSource) -> tuple[str, ...]:
    """What this source is known by in what the index says is touched."""
    return (source.mac, source.router_id) if source.router_id else (source.mac,)
