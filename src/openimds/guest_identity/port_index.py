"""Which port asks: an index of ports by where they are, kept up with the ports one knows.

An answer is every port that matches; only exactly one is an identity. What narrows to no network finds nothing, never
everything.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

from openimds.guest_identity.addresses import Address, canonical
from openimds.guest_identity.mapping_diff import difference
from openimds.guest_identity.router_networks import RouterNetworks, discard, is_router_interface
from openimds.resources.network import Port, Subnet

_NETWORK_OWNED = "network:"
"""Ports of the network itself (DHCP, routers, floating IPs): behind them is no instance."""


def is_instance_port(port: Port) -> bool:
    """Can an instance stand behind this port?"""
    return bool(port.device_id) and not port.device_owner.startswith(_NETWORK_OWNED)


class AddressIndex:
    """Ports by (network, address) and (network, MAC), and routers' networks. One thread's own."""

    def __init__(self) -> None:
        self._ports: dict[str, Port] = {}
        self._by_place: dict[tuple[str, str], dict[str, Port]] = {}
        self._reach = RouterNetworks()

    def __len__(self) -> int:
        return len(self._ports)

    def update(self, ports: Mapping[str, Port], subnets: Mapping[str, Subnet]) -> frozenset[Hashable]:
        """Make the index hold exactly these; only what differs is touched: → where somebody else may be found now, as
        `(network id, address or MAC)`, `address or MAC` and router id.
        """
        gone, new = difference(self._ports, ports)
        for port in gone:
            self._drop(port)
        for port in new:
            self._add(port)
        touched = frozenset(touched for port in (*gone, *new) for touched in _touched(port))
        return touched.union(self._reach.know(subnets))

    def on_network(self, network_id: str, at: str) -> tuple[Port, ...]:
        """The ports of one network that have this address (canonical) or MAC (lower case)."""
        found = self._by_place.get((network_id, at))
        return tuple(found.values()) if found else ()

    def behind_router(self, router_id: str, at: str, address: Address) -> tuple[Port, ...]:
        """The same where somebody behind the router may be who asks from `address` (`guest_identity/router_networks.py`)."""
        found: list[Port] = []
        for network_id in self._reach.networks(router_id, address):
            found += self.on_network(network_id, at)
        return tuple(found)

    def _add(self, port: Port) -> None:
        self._ports[port.id] = port
        self._reach.add(port)
        for key in _keys(port):
            self._by_place.setdefault(key, {})[port.id] = port

    def _drop(self, port: Port) -> None:
        del self._ports[port.id]
        self._reach.drop(port)
        for key in _keys(port):
            discard(self._by_place, key, port.id)


def _keys(port: Port) -> list[tuple[str, str]]:
    return [(port.network_id, place) for place in sorted(_places(port))] if is_instance_port(port) else []


def _places(port: Port) -> set[str]:
    return {canonical(address) for address in port.ip_addresses} | {port.mac_address.lower()}


def _touched(port: Port) -> Iterator[Hashable]:
    """Also of a port that no instance has yet: whoever waits for that hears that it has gone."""
    for place in _places(port):
        yield place
        yield port.network_id, place
    if is_router_interface(port):
        yield port.device_id
