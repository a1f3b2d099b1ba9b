"""Indexes of ports by the source of a request.

`MacIndex` serves `metadata_proxy = direct`, where the kernel shows the client's MAC. `AddressIndex` serves the namespace
proxies, whose headers name an address only.

Rules of this file:

1. A client that can be on no network matches no port, never all ports.
2. Behind a router, only ports on the networks of `guest_identity/router_networks.py` match.
3. Without a MAC, `MacIndex` finds no port.
4. A link-local address is not unique behind a router. If its device is unknown and the router has interfaces on several
   networks, all ports of these networks must belong to one project. Otherwise a client could use the link-local address
   of another project's port on another network.
5. The neighbour table holds what clients announce, and it can change between a connection and the lookup. A link-local
   address whose MAC comes from this table identifies a port only if the ports of its networks belong to one project.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping

from openimds.guest_identity.addresses import Address, canonical, mac_from_eui64
from openimds.guest_identity.mapping_diff import difference
from openimds.guest_identity.port_match import (
    ClientSource,
    is_instance_port,
    is_network_owned,
    matching,
    source_of,
    the_one,
)
from openimds.guest_identity.router_networks import RouterNetworks, discard, is_router_interface
from openimds.resources.network import Port, Subnet


def must_be_of_one_project(source: ClientSource, attached: Collection[str]) -> bool:
    """Returns whether rule 4 or 5 of this file applies to the source. `attached`: the networks of its namespace."""
    if not source.is_link_local:
        return False
    return source.is_mac_from_neighbours or (not source.device and len(attached) > 1)


def are_of_one_project(ports: Iterable[Port]) -> bool:
    """Returns whether all ports that instances can use belong to one project."""
    return len({port.project_id for port in ports if not is_network_owned(port)}) <= 1


class PortIndex:
    """Ports by network and place, and the networks behind each router. Belongs to one thread."""

    requires_mac = False
    """True if a client without a known MAC is never identified."""

    def __init__(self) -> None:
        self._ports: dict[str, Port] = {}
        self._by_place: dict[tuple[str, str], dict[str, Port]] = {}
        self._projects: dict[str, Counter[str]] = {}
        """The number of ports that instances can use, by network and project."""
        self._routers = RouterNetworks()

    def __len__(self) -> int:
        return len(self._ports)

    def update(self, ports: Mapping[str, Port], subnets: Mapping[str, Subnet]) -> frozenset[Hashable]:
        """Replaces the content of the index by these ports and subnets. The time grows with the number of changes.

        Returns the keys of the changes: `place`, `(network ID, place)` and router IDs.
        """
        gone, new = difference(self._ports, ports)
        for port in gone:
            self._drop(port)
        for port in new:
            self._add(port)
        return self._touched(gone, new).union(self._routers.know(subnets))

    def touched_between(self, before: Mapping[str, Port], after: Mapping[str, Port]) -> frozenset[Hashable]:
        """Returns the keys of the changes between two sets of ports. Thread-safe."""
        return self._touched(*difference(before, after))

    def holds(self, port: Port) -> bool:
        """Returns whether this very version of the port is in the index."""
        return self._ports.get(port.id) is port

    def candidates(self, source: ClientSource) -> tuple[Port, ...]:
        """Returns the ports that match the source."""
        if self.is_uncertain(source) and self._project_count(self._attached(source)) > 1:
            return ()
        place = source.place
        found = [
            port
            for network_id in sorted(self.networks(source))
            for port in self._by_place.get((network_id, place), _NO_PORTS).values()
        ]
        return self.matching(found, source) if found else ()

    def networks(self, source: ClientSource) -> frozenset[str]:
        """Returns the networks that the source can be on."""
        if source.network_id:
            return frozenset({source.network_id})
        return self._routers.networks(source.router_id or "", source.address, source.device)

    def is_uncertain(self, source: ClientSource) -> bool:
        """Returns whether a match of the source depends on ports at other places (rules 4 and 5)."""
        return source.is_link_local and must_be_of_one_project(source, self._attached(source))

    def source(self, listener: str, address: Address, mac: str, device: str) -> ClientSource:
        """Returns the source of a client. An AddressIndex derives a missing MAC from an EUI-64 address.

        Raises ValueError for a listener that is neither a network's nor a router's.
        """
        return source_of(listener, address, mac, device)

    def needs_neighbours(self, source: ClientSource) -> bool:
        """Returns whether the MAC must be read from the namespace's neighbour table."""
        return not source.mac

    def query_filters(self, source: ClientSource) -> Iterator[dict[str, str]]:
        """Yields filters for Neutron's list of ports, in the order of use."""
        yield {"mac_address": source.mac}

    def matching(self, ports: Iterable[Port], source: ClientSource) -> tuple[Port, ...]:
        """Returns the matching ports, out of ports on the networks of the source."""
        return matching(ports, source)

    def single(self, found: tuple[Port, ...], source: ClientSource) -> Port:
        """Returns the only port of a match. Raises NoSinglePort or PortNotReady."""
        return the_one(found, source)

    def places(self, port: Port) -> set[str]:
        raise NotImplementedError

    def _is_indexed(self, _port: Port) -> bool:
        return True

    def _attached(self, source: ClientSource) -> frozenset[str]:
        """Returns the networks of the source's namespace, whether or not the router acts for them."""
        return frozenset({source.network_id}) if source.network_id else self._routers.attached(source.router_id or "")

    def _project_count(self, networks: Iterable[str]) -> int:
        return len({project for network_id in networks for project in self._projects.get(network_id, ())})

    def _add(self, port: Port) -> None:
        self._ports[port.id] = port
        self._routers.add(port)
        if not is_network_owned(port):
            self._projects.setdefault(port.network_id, Counter())[port.project_id] += 1
        if self._is_indexed(port):
            for place in self.places(port):
                self._by_place.setdefault((port.network_id, place), {})[port.id] = port

    def _drop(self, port: Port) -> None:
        del self._ports[port.id]
        self._routers.drop(port)
        if not is_network_owned(port):
            self._drop_project(port)
        if self._is_indexed(port):
            for place in self.places(port):
                discard(self._by_place, (port.network_id, place), port.id)

    def _drop_project(self, port: Port) -> None:
        projects = self._projects[port.network_id]
        projects[port.project_id] -= 1
        if not projects[port.project_id]:
            del projects[port.project_id]
        if not projects:
            del self._projects[port.network_id]

    def _touched(self, gone: list[Port], new: list[Port]) -> frozenset[Hashable]:
        return frozenset(key for port in (*gone, *new) for key in self._keys(port))

    def _keys(self, port: Port) -> Iterator[Hashable]:
        for place in self.places(port):
            yield place
            yield port.network_id, place
        if is_router_interface(port):
            yield port.device_id


class MacIndex(PortIndex):
    """Ports by their own MACs and those of their address pairs."""

    requires_mac = True

    def query_filters(self, source: ClientSource) -> Iterator[dict[str, str]]:
        yield {"mac_address": source.mac}
        yield {}  # Neutron has no filter for the MACs of address pairs

    def places(self, port: Port) -> set[str]:
        pairs = {pair.mac_address.lower() for pair in port.allowed_address_pairs if pair.mac_address}
        return pairs | {port.mac_address.lower()}


class AddressIndex(PortIndex):
    """Ports of instances by their fixed addresses, and by their MACs for link-local addresses."""

    def source(self, listener: str, address: Address, mac: str, device: str) -> ClientSource:
        return source_of(listener, address, mac or mac_from_eui64(address) or "", device)

    def needs_neighbours(self, source: ClientSource) -> bool:
        return source.is_link_local and not source.mac

    def query_filters(self, source: ClientSource) -> Iterator[dict[str, str]]:
        yield {"mac_address": source.mac} if source.mac else {"fixed_ips": f"ip_address={source.address}"}

    def matching(self, ports: Iterable[Port], source: ClientSource) -> tuple[Port, ...]:
        return tuple(port for port in ports if not is_network_owned(port) and source.place in self.places(port))

    def single(self, found: tuple[Port, ...], source: ClientSource) -> Port:
        """A port of an instance wins over ports at the same address that no instance uses yet."""
        return the_one(tuple(filter(is_instance_port, found)) or found[:1], source)

    def places(self, port: Port) -> set[str]:
        return {canonical(address) for address in port.ip_addresses} | {port.mac_address.lower()}

    def _is_indexed(self, port: Port) -> bool:
        return is_instance_port(port)


_NO_PORTS: dict[str, Port] = {}
