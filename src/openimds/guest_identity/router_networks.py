"""The networks that a client behind a router can be on.

Rules of this file:

1. Only interfaces that act for their network count (`resources.network.is_gateway`). A router that another project
   attached to a shared network identifies no guest of that network: its owner could lead a guest's address elsewhere by
   an extra route.
2. An address inside a subnet that the router has an interface on is that subnet's network's alone: answers to it go
   there and nowhere else, and subnets of one router do not overlap (Neutron refuses that). What ports of the router's
   other networks claim of the address (an address pair, a subnet that the router is not on) has no effect. If the
   interface does not count, the address is on no network.
3. An IPv6 link-local address is on the network of the device that it came in by, where that is known.
4. Any other address (behind a guest, by a static route) may be on each of the networks that count.
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
    """Is this a router's port on a network it serves (not its gateway to the outside)?"""
    return port.device_owner in _ROUTER_PORT_OWNERS


class RouterSubnets:
    """One router's networks, prepared: a request asks for nothing but what a table has."""

    __slots__ = ("_by_device", "_by_prefix", "_everywhere")

    def __init__(self, interfaces: Iterable[Port], subnets: Mapping[str, Subnet]) -> None:
        """`interfaces`: of one router. `subnets`: theirs, by id, and any others."""
        by_device: defaultdict[str, set[str]] = defaultdict(set)
        by_prefix: defaultdict[tuple[int, int], defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for port in interfaces:
            for fixed in port.fixed_ips:
                subnet = subnets.get(fixed.subnet_id)
                if subnet is not None:
                    version, host_bits, prefix = _prefix(subnet.cidr)
                    networks = by_prefix[version, host_bits][prefix]  # also without a network: rule 2
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
        """The networks that somebody may be on.

        `device`: by which a link-local address came in, as `qr-01e7ee7b-98`; empty: not known.
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
    """All routers' interfaces and the subnets that they are on. One thread's own."""

    _subnets: Mapping[str, Subnet] = field(default_factory=dict)
    _interfaces: dict[str, dict[str, Port]] = field(default_factory=dict)
    """Router id → port id → port."""
    _routers_on: dict[str, dict[str, str]] = field(default_factory=dict)
    """Subnet id → port id → router id."""
    _prepared: dict[str, RouterSubnets] = field(default_factory=dict)
    """By router id: of those that were asked for since they changed."""

    def networks(self, router_id: str, address: Address, device: str = "") -> frozenset[str]:
        """As `Behind.networks`; none when the router has no interface."""
        behind = self._prepared.get(router_id)
        if behind is None:
            interfaces = self._interfaces.get(router_id)
            if interfaces is None:
                return _NOWHERE  # and nothing remembered: anybody may ask for any router
            behind = self._prepared[router_id] = RouterSubnets(interfaces.values(), self._subnets)
        return behind.networks(address, device)

    def add(self, port: Port) -> None:
        """Any port: others than routers' interfaces are nothing to it."""
        if not is_router_interface(port):
            return
        self._prepared.pop(port.device_id, None)
        self._interfaces.setdefault(port.device_id, {})[port.id] = port
        for fixed in port.fixed_ips:
            self._routers_on.setdefault(fixed.subnet_id, {})[port.id] = port.device_id

    def drop(self, port: Port) -> None:
        """One that was added."""
        if not is_router_interface(port):
            return
        self._prepared.pop(port.device_id, None)
        discard(self._interfaces, port.device_id, port.id)
        for fixed in port.fixed_ips:
            discard(self._routers_on, fixed.subnet_id, port.id)

    def know(self, subnets: Mapping[str, Subnet]) -> frozenset[str]:
        """From now on these are the subnets. → the routers of which one came, went or changed."""
        gone, new = difference(self._subnets, subnets)
        self._subnets = subnets
        routers = frozenset(
            router_id for subnet in (*gone, *new) for router_id in self._routers_on.get(subnet.id, {}).values()
        )
        for router_id in routers:
            self._prepared.pop(router_id, None)
        return routers


def discard(table: dict[_Key, dict[str, _Entry]], key: _Key, one: str) -> None:
    """Of a table of tables: take out one entry, if it is there, and what is empty then."""
    entries = table.get(key, {})
    entries.pop(one, None)
    if not entries:
        table.pop(key, None)


@lru_cache(_KNOWN_PREFIXES)
def _prefix(cidr: str) -> tuple[int, int, int]:
    """IP version, the number of bits behind the prefix, and the prefix as a number."""
    prefix = ip_network(cidr, strict=False)
    host_bits = prefix.max_prefixlen - prefix.prefixlen
    return prefix.version, host_bits, int(prefix.network_address) >> host_bits
