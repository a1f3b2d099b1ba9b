"""Which network somebody behind a router is on.

Rules of this file:

1. An address inside a subnet that the router has an interface on is that subnet's network's alone: what is sent back to
   it goes there and nowhere else, and subnets of one router do not overlap (Neutron refuses that). Whatever ports of the
   router's other networks say of the address (an address pair, a subnet of theirs that the router is not on) is nothing.
2. An IPv6 link-local address is on the network of the device that it came in by, where that is known.
3. Any other address (behind a guest, by a static route) may be on each of the router's networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network

from openimds.identity.source import Address
from openimds.resources.network import Port, Subnet

_ROUTER_PORT_OWNERS = frozenset(
    {
        "network:router_interface",
        "network:router_interface_distributed",
        "network:ha_router_replicated_interface",
    }
)
_KNOWN_PREFIXES = 8192


def is_router_interface(port: Port) -> bool:
    """Is this a router's port on a network it serves (not its gateway to the outside)?"""
    return port.device_owner in _ROUTER_PORT_OWNERS


def networks_behind(
    interfaces: Iterable[Port], subnets: Mapping[str, Subnet], address: Address, device: str = ""
) -> frozenset[str]:
    """The networks that somebody may be on.

    `interfaces`: of one router. `device`: by which a link-local address came in, as
    `qr-01e7ee7b-98`; empty: not known.
    """
    if address.version == 6 and address.is_link_local:
        return frozenset(port.network_id for port in interfaces if not device or port.router_device_name == device)
    everywhere, at_home = set(), set()
    for port in interfaces:
        everywhere.add(port.network_id)
        if _has_subnet_of(port, subnets, address):
            at_home.add(port.network_id)
    return frozenset(at_home or everywhere)


@dataclass(slots=True)
class Reach:
    """All routers' interfaces and the subnets that they are on. One thread's own."""

    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    _interfaces: dict[str, dict[str, Port]] = field(default_factory=dict)
    """Router id → port id → port."""

    def networks(self, router_id: str, address: Address, device: str = "") -> frozenset[str]:
        """As `networks_behind`."""
        return networks_behind(self._interfaces.get(router_id, {}).values(), self.subnets, address, device)

    def add(self, port: Port) -> None:
        """Any port: others than routers' interfaces are nothing to it."""
        if is_router_interface(port):
            self._interfaces.setdefault(port.device_id, {})[port.id] = port

    def drop(self, port: Port) -> None:
        """One that was added."""
        if not is_router_interface(port):
            return
        interfaces = self._interfaces[port.device_id]
        del interfaces[port.id]
        if not interfaces:
            del self._interfaces[port.device_id]

    def know(self, subnets: Mapping[str, Subnet]) -> Iterator[str]:
        """From now on these are the subnets. → the routers of which one came, went or changed."""
        before, self.subnets = self.subnets, subnets
        if before is subnets:
            return
        changed = {one for one in before.keys() | subnets.keys() if before.get(one) is not subnets.get(one)}
        for router_id, interfaces in self._interfaces.items():
            if any(fixed.subnet_id in changed for port in interfaces.values() for fixed in port.fixed_ips):
                yield router_id


def _has_subnet_of(interface: Port, subnets: Mapping[str, Subnet], address: Address) -> bool:
    number = int(address)
    for fixed in interface.fixed_ips:
        subnet = subnets.get(fixed.subnet_id)
        if subnet is None:
            continue
        version, first, last = _bounds(subnet.cidr)
        if version == address.version and first <= number <= last:
            return True
    return False


@lru_cache(_KNOWN_PREFIXES)
def _bounds(cidr: str) -> tuple[int, int, int]:
    """IP version, first and last address, as numbers."""
    prefix = ip_network(cidr, strict=False)
    return prefix.version, int(prefix.network_address), int(prefix.broadcast_address)
