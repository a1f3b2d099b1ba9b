"""The queries for the sources of one network or router. They run on a thread.

A batch asks for the interfaces and subnets of the router once. From LISTING_SOURCES sources on it lists all ports of their
networks, because further requests will follow. Otherwise it merges the filters of the sources into one call.

The query only narrows the ports. `PortIndex.matching` decides which port matches a source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from openimds.agents.metadata.lookup.last_known import Listing
from openimds.agents.metadata.protocols import Ports
from openimds.guest_identity.port_index import PortIndex, are_of_one_project, must_be_of_one_project
from openimds.guest_identity.port_match import ClientSource
from openimds.guest_identity.router_networks import RouterSubnets, is_router_interface
from openimds.resources.network import Port, Subnet

LISTING_SOURCES = 8
"""Number of sources in a batch from which all ports of their networks are listed, because more requests will follow."""
LISTING_PORTS = 500
"""Maximum number of ports in such a list. In a larger network the ports are always queried by address."""
MAX_FILTER_CHARS = 2800
"""Maximum length of a filter's values in one call. The default header buffer of uWSGI has 4 KiB."""


@dataclass(frozen=True, slots=True)
class RouterState:
    interfaces: tuple[Port, ...]
    subnets: Mapping[str, Subnet]

    @property
    def attached(self) -> list[str]:
        return sorted({port.network_id for port in self.interfaces})


class PortBatch:
    """The sources of one network or router. Runs on a thread."""

    def __init__(  # noqa: PLR0913 - the state of a batch
        self,
        index: PortIndex,
        ports: Ports,
        sources: Sequence[ClientSource],
        *,
        is_watched: Callable[[], bool],
        router: RouterState | None,
        lists: Mapping[str, tuple[Port, ...]],
        large: frozenset[str],
    ) -> None:
        """`router` and `lists`: cached state. `large`: the networks whose ports are not listed."""
        self._index = index
        self._ports = ports
        self._sources = sources
        self._is_watched = is_watched
        self._lists = lists
        self._known_large = large
        self.router_id = sources[0].router_id or ""
        self.router = router
        self.listed: dict[str, tuple[Port, ...]] = {}
        self.large: list[str] = []
        self.listings: list[Listing] = []

    def run(self) -> dict[ClientSource, tuple[Port, ...]]:
        """Returns the matching ports of each source. Raises ControlAwayError."""
        found: dict[ClientSource, tuple[Port, ...]] = dict.fromkeys(self._sources, ())
        networks = self._networks()
        rest = self._match_lists(found, networks)
        if len(rest) >= LISTING_SOURCES and self._list(frozenset[str]().union(*(networks[source] for source in rest))):
            rest = self._match_lists(found, {source: networks[source] for source in rest})
        filters = {source: self._index.query_filters(source) for source in rest}
        while filters:
            self._query(found, networks, filters)
        return found

    def _networks(self) -> dict[ClientSource, frozenset[str]]:
        """The networks that each source can be on. A source without one is not queried: it would match all ports."""
        first = self._sources[0]
        if first.network_id:
            attached = [first.network_id]
            networks = {source: frozenset(attached) for source in self._sources}
        else:
            self.router = self.router or self._read_router()
            attached = self.router.attached
            table = RouterSubnets(self.router.interfaces, self.router.subnets)
            networks = {source: table.networks(source.address, source.device) for source in self._sources}
        if any(must_be_of_one_project(source, attached) for source in self._sources) and attached:
            found = self._ports.ports({"network_id": attached})
            if not are_of_one_project(port for port in found if port.network_id in attached):
                networks = {s: on for s, on in networks.items() if not must_be_of_one_project(s, attached)}
        return {source: on for source, on in networks.items() if on}

    def _read_router(self) -> RouterState:
        found = self._ports.ports({"device_id": self.router_id})
        # The filter matches text that tenants can write. The decoded port has the recorded attachment.
        interfaces = tuple(port for port in found if is_router_interface(port) and port.device_id == self.router_id)
        self.listings.append(Listing(interfaces, _interfaces_of(self.router_id)))
        attached = sorted({port.network_id for port in interfaces})
        subnets = self._ports.subnets({"network_id": attached}) if attached else ()
        return RouterState(interfaces, {subnet.id: subnet for subnet in subnets})

    def _match_lists(
        self, found: dict[ClientSource, tuple[Port, ...]], networks: Mapping[ClientSource, frozenset[str]]
    ) -> list[ClientSource]:
        """Matches the sources with the listed networks. Returns the sources that need a query.

        A list that was read in this batch is complete. A port may be younger than an older list.
        """
        places: dict[str, dict[str, list[Port]]] = {}
        rest = []
        for source, on in networks.items():
            lists = {network_id: self.listed.get(network_id, self._lists.get(network_id)) for network_id in on}
            ports: list[Port] = []
            for network_id, listed in lists.items():
                if listed is not None:
                    at = places.setdefault(network_id, self._by_place(listed))
                    ports += at.get(source.place, ())
            matches = self._index.matching(ports, source) if None not in lists.values() else ()
            if matches:
                found[source] = matches
            elif not on <= self.listed.keys():
                rest.append(source)
        return rest

    def _list(self, networks: frozenset[str]) -> bool:
        """Lists all ports of the networks. Returns False if they are too many."""
        wanted = sorted(networks - self.listed.keys() - self._known_large)
        if self._is_watched() or not wanted or len(wanted) < len(networks - self.listed.keys()):
            return False
        ports = self._ports.ports({"network_id": wanted, "limit": str(LISTING_PORTS)})
        if len(ports) >= LISTING_PORTS:
            self.large = wanted
            return False
        for network_id in wanted:
            on_network = tuple(port for port in ports if port.network_id == network_id)
            self.listed[network_id] = on_network
            self.listings.append(Listing(on_network, _on_network(network_id)))
        return True

    def _query(
        self,
        found: dict[ClientSource, tuple[Port, ...]],
        networks: Mapping[ClientSource, frozenset[str]],
        filters: dict[ClientSource, Iterator[dict[str, str]]],
    ) -> None:
        """Sends the next filter of each source, merged by name. Removes the sources that have a result."""
        merged: dict[str, dict[str, None]] = {}
        asked: dict[ClientSource, tuple[str, str]] = {}
        for source, each in list(filters.items()):
            wanted = next(each, None)
            if wanted is None:
                del filters[source]
                continue
            asked[source] = next(iter(wanted.items()), ("", ""))
            merged.setdefault(asked[source][0], {})[asked[source][1]] = None
        if not asked:
            return
        on = sorted(frozenset[str]().union(*(networks[source] for source in asked)))
        places = {name: self._by_place(self._ports_with(on, name, list(values))) for name, values in merged.items()}
        matched: list[Port] = []
        for source, (name, _value) in asked.items():
            ports = [port for port in places[name].get(source.place, ()) if port.network_id in networks[source]]
            matches = self._index.matching(ports, source)
            matched += matches
            if matches or self._is_watched():
                found[source] = matches  # with a watch, the mirror has the matches of the other filters
                del filters[source]
        asked_places = frozenset((network_id, source.place) for source in asked for network_id in networks[source])
        self.listings.append(Listing(tuple(matched), _at_places(self._index, asked_places)))

    def _ports_with(self, networks: list[str], name: str, values: list[str]) -> list[Port]:
        if not name:
            return list(self._ports.ports({"network_id": networks}))
        ports: list[Port] = []
        for part in chunks(values):
            ports += self._ports.ports({"network_id": networks, name: part if len(part) > 1 else part[0]})
        return ports

    def _by_place(self, ports: Iterable[Port]) -> dict[str, list[Port]]:
        places: dict[str, list[Port]] = {}
        for port in ports:
            for place in self._index.places(port):
                places.setdefault(place, []).append(port)
        return places


ROUTER_INTERFACES = [
    "network:router_interface",
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
]


def chunks(values: Sequence[str]) -> Iterator[list[str]]:
    """Parts of a list of values, each short enough for one URL."""
    part: list[str] = []
    size = 0
    for value in values:
        cost = len(value) + _OVERHEAD_CHARS
        if part and size + cost > MAX_FILTER_CHARS:
            yield part
            part, size = [], 0
        part.append(value)
        size += cost
    if part:
        yield part


_OVERHEAD_CHARS = 13
"""The name of a filter and its quoting: `&fixed_ips=` and `%3D`."""


def _on_network(network_id: str) -> Callable[[Port], bool]:
    return lambda port: port.network_id == network_id


def _interfaces_of(router_id: str) -> Callable[[Port], bool]:
    return lambda port: is_router_interface(port) and port.device_id == router_id


def interfaces_on(networks: frozenset[str]) -> Callable[[Port], bool]:
    return lambda port: is_router_interface(port) and port.network_id in networks


def _at_places(index: PortIndex, asked: frozenset[tuple[str, str]]) -> Callable[[Port], bool]:
    return lambda port: any((port.network_id, place) in asked for place in index.places(port))
