"""Who asks: from where a request came to the one port it came from.

1. The mirror, while its watch is alive: it hears of a change as the change is made, so an address that moved to
   another instance is never answered with the old one's identity.
2. One look at the control API before "nobody" is said, and for everything while there is no living watch. Equal looks
   at the same moment are one.
3. What the mirror knew last, while the control API is away: nobody can move an address then either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from openimds.agents.metadata.edges import ControlAwayError, Mirror, Neighbours, Ports
from openimds.agents.metadata.recent import Recent
from openimds.identity.headers import Origin
from openimds.identity.lookup import PortIndex, is_asker, is_router_interface
from openimds.identity.source import Address, mac_from_eui64
from openimds.resources.network import Port

FOUND_SECONDS = 2.0
"""How long a look's find is believed where there is no watch (a real Neutron): a boot's requests come in one go."""
NOBODY_SECONDS = 1.0
"""How long it is believed that nobody is there. The mirror is asked first and hears of a new port at once."""
LOOK_SECONDS = 8.0


class NobodyError(Exception):
    """No port, or more than one, asks from there: a final no. The sentence is for the log."""

    def __init__(self, outcome: str, sentence: str) -> None:
        super().__init__(sentence)
        self.outcome = outcome
        """`none` or `several`."""


class NotKnownYetError(Exception):
    """It cannot be told now who asks: ask again."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request came from. `mac` instead of the address where the address is link-local."""

    network_id: str | None
    router_id: str | None
    address: Address
    mac: str | None = None

    def __str__(self) -> str:
        where = f"network {self.network_id}" if self.network_id else f"router {self.router_id}"
        return f"{self.mac or self.address} on {where}"


class Finder:
    """Belongs to the event loop; looks run on `executor`."""

    def __init__(
        self,
        mirror: Mirror,
        ports: Ports,
        neighbours: Neighbours,
        *,
        executor: Executor,
        clock: Callable[[], float],
        found_seconds: float = FOUND_SECONDS,
    ) -> None:
        self._mirror = mirror
        self._ports = ports
        self._neighbours = neighbours
        self._executor = executor
        self._found_seconds = found_seconds
        self._index = PortIndex()
        self._indexed_ports: object = None
        self._looks: dict[Place, asyncio.Task[tuple[Port, ...]]] = {}
        self._recent: Recent[Place, tuple[Port, ...]] = Recent(clock)

    def at_once(self, origin: Origin, at: str | None) -> Port | None:
        """The port that asks, when the mirror, up to date, knows one and no more at `at`; else `find` tells."""
        if at is None or not self._mirror.connected:
            return None
        self.refresh()
        found = self._at(origin.network_id, origin.router_id, at)
        return found[0] if len(found) == 1 else None

    async def find(self, origin: Origin, address: Address) -> Port:
        """The port that asks. Raises NobodyError or NotKnownYetError."""
        if not origin.network_id and not origin.router_id:
            raise NobodyError("none", "the request says neither which network nor which router it came through")
        place = await self._place(origin, address)
        known = self._known(place)
        if self._mirror.connected and known:
            return _only(known, place)
        try:
            return _only(await self._look(place), place)
        except ControlAwayError as error:
            if known:
                return _only(known, place)
            raise NotKnownYetError(f"nothing is known of {place}, and {error}") from None

    async def find_anew(self, origin: Origin, address: Address) -> Port | None:
        """The port, looked up at this moment, where `find` might have answered from an earlier look; else None.

        Raises NobodyError or NotKnownYetError.
        """
        place = await self._place(origin, address)
        if self._recent.get(place) is None:
            return None
        self._recent.forget(place)
        return await self.find(origin, address)

    async def _place(self, origin: Origin, address: Address) -> Place:
        mac = mac_from_eui64(address)
        if mac is None and address.version == 6 and address.is_link_local:
            loop = asyncio.get_running_loop()
            mac = await loop.run_in_executor(
                self._executor, self._neighbours.mac_of, origin.network_id, origin.router_id, address
            )
        return Place(origin.network_id, origin.router_id, address, mac.lower() if mac else None)

    def refresh(self) -> None:
        """Bring the index to the mirror's newest view: cheap when little changed, a second for the first 100,000."""
        ports = self._mirror.view().ports
        if ports is not self._indexed_ports:
            self._index.update(ports)
            self._indexed_ports = ports

    def _known(self, place: Place) -> tuple[Port, ...]:
        self.refresh()
        return self._at(place.network_id, place.router_id, place.mac or str(place.address))

    def _at(self, network_id: str | None, router_id: str | None, at: str) -> tuple[Port, ...]:
        if network_id:
            return self._index.on_network(network_id, at)
        return self._index.behind_router(router_id or "", at)

    async def _look(self, place: Place) -> tuple[Port, ...]:
        recent = self._recent.get(place)
        if recent is not None:
            return recent
        task = self._looks.get(place)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(place))
            self._looks[place] = task
            task.add_done_callback(lambda done: self._looked(place, done))
        # One guest's hanging up must not end the look that others wait for.
        return await asyncio.shield(task)

    def _looked(self, place: Place, task: asyncio.Task[tuple[Port, ...]]) -> None:
        self._looks.pop(place, None)
        if task.cancelled() or task.exception() is not None:
            return
        found = task.result()
        if not found:
            self._recent.put(place, found, NOBODY_SECONDS)
        elif not self._mirror.connected:
            self._recent.put(place, found, self._found_seconds)

    async def _ask(self, place: Place) -> tuple[Port, ...]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await loop.run_in_executor(self._executor, self._ask_here, place)
        except TimeoutError:
            raise ControlAwayError(f"the control API did not answer within {LOOK_SECONDS:g} s") from None

    def _ask_here(self, place: Place) -> tuple[Port, ...]:
        """On a thread."""
        if place.network_id:
            networks = [place.network_id]
        else:
            interfaces = self._ports.ports({"device_id": place.router_id or ""})
            networks = sorted({port.network_id for port in interfaces if is_router_interface(port)})
        if not networks:
            return ()  # no filter at all would mean every network
        at = {"mac_address": place.mac} if place.mac else {"fixed_ips": f"ip_address={place.address}"}
        found = self._ports.ports({"network_id": networks, **at})
        return tuple(port for port in found if is_asker(port) and port.network_id in networks)


def _only(found: tuple[Port, ...], place: Place) -> Port:
    if not found:
        raise NobodyError("none", f"no instance's port has {place}")
    if len(found) > 1:
        names = ", ".join(sorted(port.id for port in found))
        raise NobodyError("several", f"more than one port has {place}: {names}")
    return found[0]
