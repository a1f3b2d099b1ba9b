"""The ports and subnets of earlier responses, for the time in which the control API does not respond.

Only the namespace proxies of a cloud without a watch need them: with a watch, the mirror has the last state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from openimds.guest_identity.port_index import PortIndex
from openimds.guest_identity.port_match import ClientSource
from openimds.resources.network import Port, Subnet

MAX_PORTS = 5000
"""Maximum number of ports. A host has some hundred instances."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The ports of a response. A port of an earlier response that `covers` accepts and the list lacks is gone."""

    ports: tuple[Port, ...]
    covers: Callable[[Port], bool]


class LastKnownPorts:
    """Belongs to the event loop. `clock` returns monotonic seconds."""

    def __init__(self, index: PortIndex, clock: Callable[[], float], max_age_seconds: float) -> None:
        self._clock = clock
        self._max_age_seconds = max_age_seconds
        self._index = type(index)()
        self._is_used = not index.requires_mac
        self._ports: dict[str, Port] = {}
        self._seen_at: dict[str, float] = {}
        """The time of the query, by port ID, the oldest first."""
        self._subnets: dict[str, Subnet] = {}
        self._is_indexed = True

    def learn(self, listing: Listing, sent_at: float) -> None:
        """Replaces the ports that the listing covers. They count as seen at `sent_at`."""
        if not self._is_used:
            return
        present = {port.id for port in listing.ports}
        self.drop(lambda port: port.id not in present and listing.covers(port))
        for port in listing.ports:
            self._ports[port.id] = port
            self._seen_at.pop(port.id, None)
            self._seen_at[port.id] = sent_at
        self._is_indexed = False
        while len(self._seen_at) > MAX_PORTS:
            self._remove(next(iter(self._seen_at)))

    def learn_subnets(self, subnets: Iterable[Subnet]) -> None:
        self._subnets.update((subnet.id, subnet) for subnet in subnets)
        self._is_indexed = False

    def drop(self, is_gone: Callable[[Port], bool]) -> None:
        for port_id in [port_id for port_id, port in self._ports.items() if is_gone(port)]:
            self._remove(port_id)

    def candidates(self, source: ClientSource) -> tuple[Port, ...]:
        """Returns the ports that match the source. Empty if the match depends on ports that may be unknown."""
        oldest_at = self._clock() - self._max_age_seconds
        while self._seen_at and next(iter(self._seen_at.values())) < oldest_at:
            self._remove(next(iter(self._seen_at)))
        if not self._is_indexed:
            self._index.update(dict(self._ports), dict(self._subnets))
            self._is_indexed = True
        if source.is_link_local and (source.is_mac_from_neighbours or not (source.device or source.network_id)):
            return ()  # the decision needs all ports of the networks
        return self._index.candidates(source)

    def _remove(self, port_id: str) -> None:
        del self._ports[port_id], self._seen_at[port_id]
        self._is_indexed = False
