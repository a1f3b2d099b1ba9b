"""Questions to the control API about who is somewhere by some MAC: equal ones at the same moment are one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass

from openimds.agents.metadata.edges import ControlAwayError, Ports
from openimds.agents.metadata.recent import Recent
from openimds.identity.binding import Source, matching
from openimds.identity.lookup import is_router_interface
from openimds.resources.network import Port

LOOK_SECONDS = 8.0
FOUND_SECONDS = 2.0
"""How long a find is believed where there is no watch (a real Neutron): a boot's requests come in one go."""
NOBODY_SECONDS = 1.0
"""How long it is believed that nobody is there. The mirror is asked first and hears of a new port at once."""
AWAY_SECONDS = 1.0
"""How long a control API that did not answer is not asked again."""

_KEPT_SECONDS = 0.05


class OvertakenError(Exception):
    """Something changed while the question was under way: what it found may be old already."""


@dataclass(slots=True, eq=False)
class _Look:
    task: asyncio.Task[tuple[Port, ...]]
    is_overtaken: bool = False


class Looks:
    """Belongs to the event loop. `is_watched`: is there a living watch, so that finds need not be remembered?"""

    def __init__(
        self, ports: Ports, *, executor: Executor, clock: Callable[[], float], is_watched: Callable[[], bool]
    ) -> None:
        self._ports = ports
        self._executor = executor
        self._clock = clock
        self._is_watched = is_watched
        self._under_way: dict[Source, _Look] = {}
        self._recent: Recent[Source, tuple[Port, ...]] = Recent(clock)
        self._away_until = 0.0

    async def look(self, source: Source, seconds: float = LOOK_SECONDS) -> tuple[Port, ...]:
        """The ports that match. Raises ControlAwayError, also after `seconds`, or OvertakenError."""
        recent = self._recent.get(source)
        if recent is not None:
            return recent
        if self._clock() < self._away_until:
            raise ControlAwayError("the control API did not answer a moment ago")
        look = self._under_way.get(source) or self._begin(source)
        try:
            async with asyncio.timeout(seconds):
                found = await asyncio.shield(look.task)  # one guest's hanging up must not end what others wait for
        except TimeoutError:
            self._away_until = self._clock() + AWAY_SECONDS
            raise ControlAwayError(f"the control API did not answer within {seconds:g} s") from None
        if look.is_overtaken:
            raise OvertakenError
        return found

    def overtake(self, touched: Collection[str]) -> None:
        """Somebody known by one of these MACs or router ids may be somebody else now."""
        for source in [one for one in self._under_way if one.mac in touched or one.router_id in touched]:
            self._under_way.pop(source).is_overtaken = True

    def _begin(self, source: Source) -> _Look:
        look = _Look(asyncio.get_running_loop().create_task(self._ask(source)))
        look.task.add_done_callback(lambda _task: self._looked(source, look))
        self._under_way[source] = look
        return look

    def _looked(self, source: Source, look: _Look) -> None:
        if look.task.cancelled() or look.task.exception() is not None:
            self._away_until = self._clock() + AWAY_SECONDS
            self._end(source, look)
            return
        if not look.is_overtaken:
            self._remember(source, look.task.result())
        # Who waits for it takes the answer in the loop's next turn, and must hear until then that it is overtaken.
        look.task.get_loop().call_later(_KEPT_SECONDS, self._end, source, look)

    def _end(self, source: Source, look: _Look) -> None:
        if self._under_way.get(source) is look:
            del self._under_way[source]

    def _remember(self, source: Source, found: tuple[Port, ...]) -> None:
        if not found:
            self._recent.put(source, found, NOBODY_SECONDS)
        elif not self._is_watched():
            self._recent.put(source, found, FOUND_SECONDS)

    async def _ask(self, source: Source) -> tuple[Port, ...]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._ask_here, source)

    def _ask_here(self, source: Source) -> tuple[Port, ...]:
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

    def _networks(self, source: Source) -> list[str]:
        if source.network_id:
            return [source.network_id]
        interfaces = self._ports.ports({"device_id": source.router_id or ""})
        return sorted({port.network_id for port in interfaces if is_router_interface(port)})
