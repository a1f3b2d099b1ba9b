"""A network as its DHCP server must know it, and the choices of who serves metadata there."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace

from openimds.resources.network import DEVICE_OWNER_DHCP, FixedIP, Network, Port, Subnet

# Neutron derives a DHCP port's device id from the host's name alone, so that an agent finds its ports again.
_HOST_NAMESPACE = uuid.NAMESPACE_DNS


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataOptions:
    """`dhcp_agent.ini`: when the proxy runs in the DHCP namespace."""

    force_metadata: bool = False
    enable_isolated_metadata: bool = False
    enable_metadata_network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpNetwork:
    """A network with at least one DHCP subnet, whole."""

    network: Network
    subnets: tuple[Subnet, ...]
    """All of the network's, in the order of their ids."""
    ports: tuple[Port, ...]
    """All of the network's, in the order of their ids."""
    dhcp_port: Port
    """This host's own."""

    @property
    def served_subnets(self) -> tuple[Subnet, ...]:
        """The DHCP subnets on which this host's DHCP port has an address: the others cannot be served yet."""
        held = {fixed.subnet_id for fixed in self.dhcp_port.fixed_ips}
        return tuple(subnet for subnet in self.subnets if subnet.enable_dhcp and subnet.id in held)

    @property
    def device_name(self) -> str:
        return self.dhcp_port.tap_name

    def own_address(self, subnet: Subnet) -> str:
        """The DHCP port's address on a served subnet."""
        return next(fixed.ip_address for fixed in self.dhcp_port.fixed_ips if fixed.subnet_id == subnet.id)

    def without_ipv6(self) -> DhcpNetwork:
        """As a host without IPv6 can serve it."""
        subnets = tuple(subnet for subnet in self.subnets if subnet.ip_version == 4)
        return replace(
            self,
            subnets=subnets,
            ports=tuple(port_without_ipv6(port) for port in self.ports),
            dhcp_port=port_without_ipv6(self.dhcp_port),
        )


def port_without_ipv6(port: Port) -> Port:
    return replace(port, fixed_ips=tuple(fixed for fixed in port.fixed_ips if ":" not in fixed.ip_address))


def wants_dhcp(network: Network, subnets: Iterable[Subnet]) -> bool:
    """Whether a network is this agent's business at all."""
    return network.admin_state_up and any(subnet.enable_dhcp for subnet in subnets)


def dhcp_device_id(host: str, network_id: str) -> str:
    """`dhcp<uuid5 of the host's short name>-<network id>`, as neutron's agents name themselves on their ports."""
    short_name = host.split(".", maxsplit=1)[0]
    return f"dhcp{uuid.uuid5(_HOST_NAMESPACE, short_name)}-{network_id}"


def own_dhcp_port(ports: Iterable[Port], host: str, network_id: str) -> Port | None:
    """The DHCP port of `host` on the network; the lowest id wins where a race made two."""
    device_id = dhcp_device_id(host, network_id)
    own = [port for port in ports if port.device_owner == DEVICE_OWNER_DHCP and port.device_id == device_id]
    return min(own, key=lambda port: port.id, default=None)


def wanted_fixed_ips(subnets: Iterable[Subnet], port: Port | None) -> tuple[FixedIP, ...] | None:
    """The fixed IPs that the DHCP port should be asked for, one a DHCP subnet; None: it has just these.

    A subnet on which the port has an address keeps it; a new one has an empty address, for the server to choose.
    """
    wanted_subnets = sorted(subnet.id for subnet in subnets if subnet.enable_dhcp)
    held = {fixed.subnet_id: fixed for fixed in port.fixed_ips} if port else {}
    if port is not None and sorted(fixed.subnet_id for fixed in port.fixed_ips) == wanted_subnets:
        return None
    return tuple(held.get(subnet_id, FixedIP(subnet_id, "")) for subnet_id in wanted_subnets)


def is_inside(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr, strict=False)
