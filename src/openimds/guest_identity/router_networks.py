"""The networks that a client behind a router can be on.

Rules of this file:

1. Only interfaces that act for their network count (`resources.network.is_gateway`). A router that another project
   attached to a shared network identifies no client of that network, because its owner could redirect a client's
   address by an extra route.
2. An address inside a connected subnet is on that subnet's network only: responses are routed there, and the subnets of
   one router do not overlap (Neutron rejects that). Ports of the router's other networks cannot claim the address, by an
   address pair or by a subnet that the router is not on. If the interface does not count, the address is on no network.
3. An IPv6 link-local address is on the network of the device on which it arrived. If the device is unknown, it can be on
   each network that counts.
4. Any other address (behind an instance, by a static route) can be on each network that counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network
from typing import TypeVar

from openimds.guest_identity.addresses import Address
from openimds.guest_identity.mapping_diff import difference
from openimds.resources.network import Port, Subnet, is_gateway

_ROUTER_PORT_OWNERS = frozenset(
    {
        "network:router_interface",
        "network:router_interface_distributed",
        "network:ha_router_replicated_interface",
    }
)
_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")
_KNOWN_PREFIXES = 8192
_NOWHERE: frozenset[str] = frozenset()


def is_router_interface(port: Port) -> bool:
    """Returns whether the port is a router's internal interface, not its external gateway."""
    return port.device_owner in _ROUTER_PORT_OWNERS


class RouterSubnets:
    """The networks of one router in lookup tables."""

    __slots__ = ("_by_device", "_by_prefix", "_everywhere", "attached")

    def __init__(self, interfaces: Iterable[Port], subnets: Mapping[str, Subnet]) -> None:
        """`interfaces`: the internal interfaces of one router. `subnets`: at least their subnets, by ID."""
        interfaces = tuple(interfaces)
        self.attached = frozenset(port.network_id for port in interfaces)
        """All networks with an interface, whether or not the interface counts."""
        by_device: defaultdict[str, set[str]] = defaultdict(set)
        by_prefix: defaultdict[tuple[int, int], defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for port in interfaces:
            for fixed in port.fixed_ips:
                subnet = subnets.get(fixed.subnet_id)
                if subnet is not None:
                    version, host_bits, prefix = _prefix(subnet.cidr)
                    networks = by_prefix[version, host_bits][
                        prefix
                    ]  # an entry without a network if the interface does not count (rule 2)
                    if is_gateway(port, subnet):
                        networks.add(port.network_id)
                        by_device[port.router_device_name].add(port.network_id)
        self._everywhere = _NOWHERE.union(*by_device.values())
        self._by_device = {name: frozenset(networks) for name, networks in by_device.items()}
        self._by_prefix = tuple(
            (version, host_bits, {prefix: frozenset(networks) for prefix, networks in at.items()})
            for (version, host_bits), at in by_prefix.items()
        )

    def networks(self, address: Address, device: str = "") -> frozenset[str]:
        """Returns the networks that a client with this address can be on.

        `device`: the device on which a link-local address arrived, such as `qr-01e7ee7b-98`. Empty if it is unknown.
        """
        version, number = address.version, int(address)
        if version == 6 and address.is_link_local:
            return self._by_device.get(device, _NOWHERE) if device else self._everywhere
        connected: frozenset[str] | None = None
        for of_version, host_bits, networks in self._by_prefix:
            if of_version == version and (found := networks.get(number >> host_bits)) is not None:
                connected = found | (connected or _NOWHERE)
        return self._everywhere if connected is None else connected


@dataclass(slots=True)
class RouterNetworks:
    """The interfaces and connected subnets of all routers. Belongs to one thread."""

    _subnets: Mapping[str, Subnet] = field(default_factory=dict)
    _interfaces: dict[str, dict[str, Port]] = field(default_factory=dict)
    """Ports by router ID and port ID."""
    _routers_on: dict[str, dict[str, str]] = field(default_factory=dict)
    """Router IDs by subnet ID and port ID."""
    _prepared: dict[str, RouterSubnets] = field(default_factory=dict)
    """Lookup tables by router ID, made at the first use after a change."""

    def networks(self, router_id: str, address: Address, device: str = "") -> frozenset[str]:
        """Returns the networks that a client can be on. Empty if the router has no interface."""
        router = self._router(router_id)
        return _NOWHERE if router is None else router.networks(address, device)

    def attached(self, router_id: str) -> frozenset[str]:
        """Returns all networks with an interface of the router."""
        router = self._router(router_id)
        return _NOWHERE if router is None else router.attached

    def _router(self, router_id: str) -> RouterSubnets | None:
        router = self._prepared.get(router_id)
        if router is None:
            interfaces = self._interfaces.get(router_id)
            if interfaces is None:
                return None  # not cached: requests can name any router ID
            router = self._prepared[router_id] = RouterSubnets(interfaces.values(), self._subnets)
        return router

    def add(self, port: Port) -> None:
        """Adds a port. Ports that are not router interfaces are ignored."""
        if not is_router_interface(port):
            return
        self._prepared.pop(port.device_id, None)
        self._interfaces.setdefault(port.device_id, {})[port.id] = port
        for fixed in port.fixed_ips:
            self._routers_on.setdefault(fixed.subnet_id, {})[port.id] = port.device_id

    def drop(self, port: Port) -> None:
        """Removes a port that was added."""
        if not is_router_interface(port):
            return
        self._prepared.pop(port.device_id, None)
        discard(self._interfaces, port.device_id, port.id)
        for fixed in port.fixed_ips:
            discard(self._routers_on, fixed.subnet_id, port.id)

    def know(self, subnets: Mapping[str, Subnet]) -> frozenset[str]:
        """Replaces the subnets. Returns the IDs of the routers with an added, removed or changed subnet."""
        gone, new = difference(self._subnets, subnets)
        self._subnets = subnets
        routers = frozenset(
            router_id for subnet in (*gone, *new) for router_id in self._routers_on.get(subnet.id, {}).values()
        )
        for router_id in routers:
            self._prepared.pop(router_id, None)
        return routers


def discard(table: dict[_Key, dict[str, _Entry]], key: _Key, one: str) -> None:
    """Removes an entry of a nested dictionary, and the inner dictionary if it becomes empty."""
    entries = table.get(key, {})
    entries.pop(one, None)
    if not entries:
        table.pop(key, None)


@lru_cache(_KNOWN_PREFIXES)
def _prefix(cidr: str) -> tuple[int, int, int]:
    """Returns the IP version, the number of host bits, and the prefix as a number."""
    prefix = ip_network(cidr, strict=False)
    host_bits = prefix.max_prefixlen - prefix.prefixlen
    return prefix.version, host_bits, int(prefix.network_address) >> host_bits
