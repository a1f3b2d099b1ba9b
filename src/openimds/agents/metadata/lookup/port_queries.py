"""Neutron's answer to where somebody behind a router may be, for those whom the mirror does not know.

Questions to the control API about who is somewhere by some MAC: equal ones at the same moment are one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass, field

from openimds.agents.metadata.lookup.hold_queue import StaleResultError
from openimds.agents.metadata.lookup.policy import AWAY_SECONDS, NEGATIVE_TTL_SECONDS
from openimds.agents.metadata.lookup.ttl_cache import TtlCache
from openimds.agents.metadata.protocols import ControlAwayError, Ports
from openimds.agents.metadata.proxy.per_key_limiter import PerKeyLimiter
from openimds.guest_identity.addresses import Address
from openimds.guest_identity.port_match import ClientSource, matching
from openimds.guest_identity.router_networks import RouterSubnets, is_router_interface
from openimds.resources.network import Port


def router_networks(ports: Ports, router_id: str, address: Address, device: str = "") -> list[str]:
    """As `identity.reach.Behind.networks`; none when there is no such router. Raises ControlAwayError."""
    found = ports.ports({"device_id": router_id})
    # The query matches text that tenants can write. The decoded port has the recorded attachment.
    interfaces = [port for port in found if is_router_interface(port) and port.device_id == router_id]
    networks = {port.network_id for port in interfaces}
    if not networks:
        return []
    subnets = {subnet.id: subnet for subnet in ports.subnets({"network_id": sorted(networks)})}
    return sorted(RouterSubnets(interfaces, subnets).networks(address, device))


OF_ONE_PLACE = 4
"""Questions about one network's or router's guests at a time, half of the threads there are: who owns a network may have them ask from as many
addresses and MACs as he likes, and others' guests must not wait for that."""
_HEARS_SECONDS = 0.05
"""After its end: who waits for it takes the answer in the loop's next turn, and must hear until then that something
changed."""


@dataclass(slots=True, eq=False)
class _Query:
    source: ClientSource
    task: asyncio.Task[tuple[Port, ...]] = field(init=False)
    is_overtaken: bool = False
    is_asked: bool = False
    """Its turn came."""


class PortQueries:
    """Belongs to the event loop. `is_watched`: is there a living watch, so that finds need not be remembered?"""

    def __init__(
        self,
        ports: Ports,
        *,
        executor: Executor,
        clock: Callable[[], float],
        is_watched: Callable[[], bool],
        found_seconds: float,
    ) -> None:
        self._ports = ports
        self._executor = executor
        self._clock = clock
        self._is_watched = is_watched
        self._found_seconds = found_seconds
        self._under_way: dict[ClientSource, _Query] = {}
        self._hearing: set[_Query] = set()
        """These, and those that have just ended."""
        self._recent: TtlCache[ClientSource, tuple[Port, ...]] = TtlCache(clock)
        self._away_until = 0.0
        self._turns = PerKeyLimiter(OF_ONE_PLACE)

    async def look(self, source: ClientSource, seconds: float) -> tuple[Port, ...]:
        """The ports that match. Raises ControlAwayError, also after `seconds`, or OvertakenError."""
        recent = self._recent.get(source)
        if recent is not None and not (recent and self._is_watched()):
            return recent  # what was found before there was a watch may have gone without a word
        if self._clock() < self._away_until:
            raise ControlAwayError("the control API did not answer a moment ago")
        look = self._under_way.get(source) or self._begin(source)
        try:
            async with asyncio.timeout(seconds):
                found = await asyncio.shield(look.task)  # one guest's hanging up must not end what others wait for
        except TimeoutError:
            if not look.is_asked:
                raise ControlAwayError(f"too many others there are asked about: no turn within {seconds:g} s") from None
            self._away_until = self._clock() + AWAY_SECONDS
            raise ControlAwayError(f"the control API did not answer within {seconds:g} s") from None
        if look.is_overtaken:
            raise StaleResultError
        return found

    def overtake(self, touched: Collection[str]) -> None:
        """Somebody known by one of these MACs or router ids may be somebody else now."""
        for look in self._hearing:
            if look.source.mac in touched or look.source.router_id in touched:
                look.is_overtaken = True
                self._end(look)

    def _begin(self, source: ClientSource) -> _Query:
        look = _Query(source)
        look.task = asyncio.get_running_loop().create_task(self._ask(look))
        look.task.add_done_callback(lambda _task: self._looked(look))
        self._under_way[source] = look
        self._hearing.add(look)
        return look

    def _looked(self, look: _Query) -> None:
        self._end(look)
        look.task.get_loop().call_later(_HEARS_SECONDS, self._hearing.discard, look)
        if look.task.cancelled() or look.task.exception() is not None:
            self._away_until = self._clock() + AWAY_SECONDS
        elif not look.is_overtaken:
            self._remember(look.source, look.task.result())

    def _end(self, look: _Query) -> None:
        """Who asks from now on does not join it."""
        if self._under_way.get(look.source) is look:
            del self._under_way[look.source]

    def _remember(self, source: ClientSource, found: tuple[Port, ...]) -> None:
        if not found:
            self._recent.put(source, found, NEGATIVE_TTL_SECONDS)
        elif not self._is_watched():
            self._recent.put(source, found, self._found_seconds)

    async def _ask(self, look: _Query) -> tuple[Port, ...]:
        place = look.source.router_id or look.source.network_id or ""
        await self._turns.take(place)
        try:
            look.is_asked = True
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, self._ask_here, look.source)
        finally:
            self._turns.give_back(place)

    def _ask_here(self, source: ClientSource) -> tuple[Port, ...]:
        """On a thread. The MAC is nearly always the port's own; else it is in one of the network's address pairs, which
        Neutron cannot be asked for, and which the mirror has where there is one.
        """
        networks = self._networks(source)
        if not networks:
            return ()  # no filter at all would mean every network
        found = self._ports.ports({"network_id": networks, "mac_address": source.mac})
        matches = matching([port for port in found if port.network_id in networks], source)
        if matches or self._is_watched():
            return matches
        everybody = self._ports.ports({"network_id": networks})
        return matching([port for port in everybody if port.network_id in networks], source)

    def _networks(self, source: ClientSource) -> list[str]:
        if source.network_id:
            return [source.network_id]
        return router_networks(self._ports, source.router_id or "", source.address, source.device)
