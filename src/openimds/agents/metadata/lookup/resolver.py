"""Who asks: from where a request came to the one port it came from.

1. The mirror, while its watch is alive: it hears of a change as the change is made, so an address that moved to
   another instance is never answered with the old one's identity.
2. One look at the control API before "nobody" is said, and for everything while there is no living watch. Equal looks
   at the same moment are one.
3. What the mirror knew last, while the control API is away, but no longer than `Belief.max_age_seconds`: when it is only our
   way to it that is cut, addresses move and we do not hear of it.
4. Who cannot be told yet is held, and then told to ask again: a port that no instance has yet, and whom nobody here
   knows while the control API is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from openimds.agents.metadata.lookup.hold_queue import HoldQueue
from openimds.agents.metadata.lookup.policy import (
    AWAY_SECONDS,
    KNOWN_LOOK_SECONDS,
    LOOK_SECONDS,
    NEGATIVE_TTL_SECONDS,
    LookupPolicy,
)
from openimds.agents.metadata.lookup.port_queries import router_networks
from openimds.agents.metadata.lookup.ttl_cache import TtlCache
from openimds.agents.metadata.protocols import ControlAwayError, Mirror, Neighbours, Ports, View
from openimds.guest_identity.addresses import Address, mac_from_eui64
from openimds.guest_identity.headers import Origin
from openimds.guest_identity.port_index import AddressIndex, is_instance_port
from openimds.guest_identity.port_match import NoSinglePort, PortNotReady
from openimds.resources.network import Port


@dataclass(frozen=True, slots=True)
class ClientLocation:
    """Where a request came from. `mac` instead of the address where the address is link-local."""

    network_id: str | None
    router_id: str | None
    address: Address
    mac: str | None = None

    def __str__(self) -> str:
        where = f"network {self.network_id}" if self.network_id else f"router {self.router_id}"
        return f"{self.mac or self.address} on {where}"


class PortResolver:
    """Belongs to the event loop; looks run on `executor`."""

    def __init__(
        self,
        mirror: Mirror,
        ports: Ports,
        neighbours: Neighbours,
        *,
        executor: Executor,
        clock: Callable[[], float],
        belief: LookupPolicy | None = None,
    ) -> None:
        self._mirror = mirror
        self._ports = ports
        self._neighbours = neighbours
        self._executor = executor
        self._clock = clock
        self._belief = belief or LookupPolicy()
        self._holding = HoldQueue(self._belief.hold_seconds)
        self._away_until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._index = AddressIndex()
        self._indexed: tuple[object, object] = (None, None)
        """The ports and subnets that the index is of."""
        self._looks: dict[ClientLocation, asyncio.Task[tuple[Port, ...]]] = {}
        self._recent: TtlCache[ClientLocation, tuple[Port, ...]] = TtlCache(clock)

    def start(self) -> None:
        """From the event loop; then `hear` may be called."""
        self._loop = asyncio.get_running_loop()
        self.refresh()

    def hear(self, _view: View) -> None:
        """In the mirror's thread: there is a new view. Without this, who is held waits a little longer."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._heard)

    def _heard(self) -> None:
        if self._holding.holds:
            self.refresh()

    def at_once(self, origin: Origin, address: Address, at: str | None) -> Port | None:
        """The port that asks, when the mirror, up to date, knows one and no more at `at`; else `find` tells."""
        if at is None or not self._keeps_up():
            return None
        self.refresh()
        found = self._at(origin.network_id, origin.router_id, at, address)
        return found[0] if len(found) == 1 else None

    async def find(self, origin: Origin, address: Address) -> Port:
        """The port that asks. Raises NobodyAsks, or NotKnownYet after a while."""
        if not origin.network_id and not origin.router_id:
            raise NoSinglePort("none", "the request says neither which network nor which router it came through")
        place = await self._place(origin, address)
        return await self._holding.held(lambda: self._judge(place), _touching(place))

    async def find_anew(self, origin: Origin, address: Address) -> Port | None:
        """The port, looked up at this moment, where `find` might have answered from an earlier look; else None.

        Raises NobodyAsks or NotKnownYet.
        """
        place = await self._place(origin, address)
        if self._recent.get(place) is None:
            return None
        self._recent.forget(place)
        return await self.find(origin, address)

    async def _place(self, origin: Origin, address: Address) -> ClientLocation:
        mac = mac_from_eui64(address)
        if mac is None and address.version == 6 and address.is_link_local:
            loop = asyncio.get_running_loop()
            mac = await loop.run_in_executor(
                self._executor, self._neighbours.mac_of, origin.network_id, origin.router_id, address
            )
        return ClientLocation(origin.network_id, origin.router_id, address, mac.lower() if mac else None)

    def refresh(self) -> None:
        """Bring the index to the mirror's newest view: cheap when little changed, a second for the first 100,000."""
        view = self._mirror.view()
        if view.ports is not self._indexed[0] or view.subnets is not self._indexed[1]:
            touched = self._index.update(view.ports, view.subnets)
            self._indexed = (view.ports, view.subnets)
            self._holding.heard(touched)

    async def _judge(self, place: ClientLocation) -> Port:
        known = self._known(place)
        if known and self._keeps_up():
            return _only(known, place)
        is_believed = bool(known) and self._is_fresh()
        try:
            return _only(await self._look(place, KNOWN_LOOK_SECONDS if is_believed else LOOK_SECONDS), place)
        except ControlAwayError as error:
            if is_believed:
                return _only(known, place)
            known_last = f"what was known of {place} is too old" if known else f"nothing is known of {place}"
            raise PortNotReady(f"{known_last}, and {error}") from None

    def _keeps_up(self) -> bool:
        return self._mirror.connected and self._is_fresh()

    def _is_fresh(self) -> bool:
        return self._mirror.age_seconds <= self._belief.max_age_seconds

    def _known(self, place: ClientLocation) -> tuple[Port, ...]:
        self.refresh()
        return self._at(place.network_id, place.router_id, place.mac or str(place.address), place.address)

    def _at(self, network_id: str | None, router_id: str | None, at: str, address: Address) -> tuple[Port, ...]:
        if network_id:
            return self._index.on_network(network_id, at)
        return self._index.behind_router(router_id or "", at, address)

    async def _look(self, place: ClientLocation, seconds: float) -> tuple[Port, ...]:
        """Every port there that could be an instance's. Raises ControlAwayError, also after `seconds`."""
        recent = self._recent.get(place)
        if recent is not None and not (recent and self._keeps_up()):
            return recent  # what was found before there was a watch may have gone without a word
        if self._clock() < self._away_until:
            raise ControlAwayError("the control API did not answer a moment ago")
        task = self._looks.get(place)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(place))
            self._looks[place] = task
            task.add_done_callback(lambda done: self._looked(place, done))
        try:
            async with asyncio.timeout(seconds):
                # One guest's hanging up must not end the look that others wait for.
                return await asyncio.shield(task)
        except TimeoutError:
            self._away_until = self._clock() + AWAY_SECONDS
            raise ControlAwayError(f"the control API did not answer within {seconds:g} s") from None

    def _looked(self, place: ClientLocation, task: asyncio.Task[tuple[Port, ...]]) -> None:
        self._looks.pop(place, None)
        if task.cancelled() or task.exception() is not None:
            self._away_until = self._clock() + AWAY_SECONDS
            return
        found = task.result()
        if not found:
            self._recent.put(place, found, NEGATIVE_TTL_SECONDS)
        elif not self._mirror.connected:
            self._recent.put(place, found, self._belief.found_seconds)

    async def _ask(self, place: ClientLocation) -> tuple[Port, ...]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._ask_here, place)

    def _ask_here(self, place: ClientLocation) -> tuple[Port, ...]:
        """On a thread."""
        if place.network_id:
            networks = [place.network_id]
        else:
            networks = router_networks(self._ports, place.router_id or "", place.address)
        if not networks:
            return ()  # no filter at all would mean every network
        at = {"mac_address": place.mac} if place.mac else {"fixed_ips": f"ip_address={place.address}"}
        found = self._ports.ports({"network_id": networks, **at})
        return tuple(
            port for port in found if port.network_id in networks and not port.device_owner.startswith("network:")
        )


def _touching(place: ClientLocation) -> tuple[object, ...]:
    """What the index says is touched when it may answer otherwise about this place."""
    at = place.mac or str(place.address)
    return ((place.network_id, at),) if place.network_id else (at, place.router_id)


def _only(found: tuple[Port, ...], place: ClientLocation) -> Port:
    if not found:
        raise NoSinglePort("none", f"no instance's port has {place}")
    askers = [port for port in found if is_instance_port(port)]
    if len(askers) > 1:
        names = ", ".join(sorted(port.id for port in askers))
        raise NoSinglePort("several", f"more than one port has {place}: {names}")
    if not askers:
        raise PortNotReady(f"the port {found[0].id} with {place} is not bound to an instance yet")
    return askers[0]
