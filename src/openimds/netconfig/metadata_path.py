"""The path of a subnet's instances to the metadata service, and the networks that need a proxy.

A subnet is isolated if no router has a port with the subnet's gateway address.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from openimds.netconfig.dhcp_network import DhcpNetwork, MetadataOptions
from openimds.resources.network import DEVICE_OWNER_ROUTER_INTERFACE, Port, Subnet

LINK_LOCAL_NETWORK = ipaddress.IPv4Network("169.254.0.0/16")
REPLICATED_INTERFACE = "network:ha_router_replicated_interface"
"""The device owner that Neutron gives to the port of an HA router."""


class PathKind(enum.Enum):
    """The kind of namespace that an instance's request to 169.254.169.254 passes through."""

    DHCP = "dhcp"
    ROUTER = "router"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class MetadataPath:
    """`MetadataPath(PathKind.DHCP, "192.168.40.121", "no router has the gateway …")`"""

    kind: PathKind
    next_hop: str | None
    """The next hop of 169.254.169.254/32 in DHCP option 121."""
    reason: str


def isolated_subnets(subnets: Iterable[Subnet], ports: Iterable[Port]) -> frozenset[str]:
    """The ids of the isolated subnets."""
    routed = {
        (fixed.subnet_id, ipaddress.ip_address(fixed.ip_address))
        for port in ports
        if is_router_interface(port)
        for fixed in port.fixed_ips
    }
    return frozenset(
        subnet.id
        for subnet in subnets
        if subnet.gateway_ip is None or (subnet.id, ipaddress.ip_address(subnet.gateway_ip)) not in routed
    )


def is_router_interface(port: Port) -> bool:
    """Whether the port is a router interface, also of Neutron's other kinds (`network:router_interface_distributed`)."""
    return port.device_owner.startswith(DEVICE_OWNER_ROUTER_INTERFACE) or port.device_owner == REPLICATED_INTERFACE


def is_metadata_network(subnets: Iterable[Subnet]) -> bool:
    """Whether a subnet is inside 169.254.0.0/16, so that the network exists only for metadata."""
    return any(is_link_local_range(subnet.cidr) for subnet in subnets if subnet.ip_version == 4)


def is_link_local_range(cidr: str) -> bool:
    """Whether the IPv4 range is inside 169.254.0.0/16."""
    return ipaddress.IPv4Network(cidr, strict=False).subnet_of(LINK_LOCAL_NETWORK)


def needs_proxy(dhcp: DhcpNetwork, options: MetadataOptions) -> bool:
    """Whether the metadata proxy runs in this network's DHCP namespace."""
    if not dhcp.served_subnets:
        return False
    if options.force_metadata:
        return True
    if not options.enable_isolated_metadata:
        return False
    isolated = isolated_subnets(dhcp.subnets, dhcp.ports)
    return any(subnet.id in isolated for subnet in dhcp.served_subnets) or (
        options.enable_metadata_network and is_metadata_network(dhcp.subnets)
    )


def metadata_network_router(dhcp: DhcpNetwork, options: MetadataOptions) -> str | None:
    """The id of the router behind a metadata network, which the proxy there sends as `X-Neutron-Router-ID`.

    The requests come from instances on the router's other networks. None on other networks, and on networks with further
    IPv4 subnets: a project could add a metadata subnet to its own network, which a router of another project serves.
    """
    if not (options.enable_isolated_metadata and options.enable_metadata_network):
        return None
    ranges = [subnet.cidr for subnet in dhcp.subnets if subnet.ip_version == 4]
    if not ranges or not all(is_link_local_range(cidr) for cidr in ranges):
        return None
    routers = (port.device_id for port in dhcp.ports if is_router_interface(port))
    return min(routers, default=None)


def metadata_path(dhcp: DhcpNetwork, subnet: Subnet, options: MetadataOptions) -> MetadataPath:
    """The path of the instances on `subnet`."""
    isolated = subnet.id in isolated_subnets(dhcp.subnets, dhcp.ports)
    served = subnet in dhcp.served_subnets
    if served and options.force_metadata:
        return MetadataPath(PathKind.DHCP, dhcp.own_address(subnet), "force_metadata is on")
    if served and isolated and options.enable_isolated_metadata:
        return MetadataPath(
            PathKind.DHCP, dhcp.own_address(subnet), f"no router has {_gateway(subnet)} on this network"
        )
    if not isolated:
        return MetadataPath(PathKind.ROUTER, subnet.gateway_ip, f"a router has {_gateway(subnet)} on this network")
    return MetadataPath(PathKind.NONE, None, _unserved_reason(subnet, options))


def _unserved_reason(subnet: Subnet, options: MetadataOptions) -> str:
    isolated = f"no router has {_gateway(subnet)} on this network"
    if not subnet.enable_dhcp:
        return f"{isolated}, and DHCP is off on subnet {subnet.id}, so nothing can serve it there"
    if options.enable_isolated_metadata:
        return f"{isolated}, and the DHCP port has no address on subnet {subnet.id} yet"
    return f"{isolated}, and both force_metadata and enable_isolated_metadata are off"


def _gateway(subnet: Subnet) -> str:
    return f"the gateway {subnet.gateway_ip}" if subnet.gateway_ip else "a gateway (the subnet names none)"
