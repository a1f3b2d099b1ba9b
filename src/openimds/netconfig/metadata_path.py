"""Which subnets no router serves, whether the proxy runs in the DHCP namespace, and which way a guest would take.

A subnet is isolated when no router has a port on it with the subnet's gateway address.
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
"""A highly available router's port, in a real Neutron."""


class PathKind(enum.Enum):
    """Through which namespace a guest's request to 169.254.169.254 goes."""

    DHCP = "dhcp"
    ROUTER = "router"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class MetadataPath:
    """`WayToMetadata(Way.DHCP, "192.168.40.121", "no router has the gateway …")`"""

    kind: PathKind
    next_hop: str | None
    """Where DHCP option 121 sends 169.254.169.254/32."""
    reason: str


def isolated_subnets(subnets: Iterable[Subnet], ports: Iterable[Port]) -> frozenset[str]:
    """The ids of the subnets whose gateway address is on no router's port."""
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
    """Also a real Neutron's other kinds (`network:router_interface_distributed`)."""
    return port.device_owner.startswith(DEVICE_OWNER_ROUTER_INTERFACE) or port.device_owner == REPLICATED_INTERFACE


def is_metadata_network(subnets: Iterable[Subnet]) -> bool:
    """Whether a subnet lies inside 169.254.0.0/16: a network made for metadata alone (`enable_metadata_network`)."""
    return any(is_link_local_range(subnet.cidr) for subnet in subnets if subnet.ip_version == 4)


def is_link_local_range(cidr: str) -> bool:
    """Whether the IPv4 range lies inside 169.254.0.0/16."""
    return ipaddress.IPv4Network(cidr, strict=False).subnet_of(LINK_LOCAL_NETWORK)


def needs_proxy(dhcp: DhcpNetwork, choice: MetadataOptions) -> bool:
    """Whether the metadata proxy runs in this network's DHCP namespace."""
    if not dhcp.served_subnets:
        return False
    if choice.force_metadata:
        return True
    if not choice.enable_isolated_metadata:
        return False
    isolated = isolated_subnets(dhcp.subnets, dhcp.ports)
    return any(subnet.id in isolated for subnet in dhcp.served_subnets) or (
        choice.enable_metadata_network and is_metadata_network(dhcp.subnets)
    )


def metadata_network_router(dhcp: DhcpNetwork, choice: MetadataOptions) -> str | None:
    """The router behind a metadata network: its guests sit on the router's other networks, so the proxy sends
    `X-Neutron-Router-ID` there. None on ordinary networks, and on networks that also have other IPv4 subnets: a project
    could add a metadata subnet to a network of its own that another project's router serves.
    """
    if not (choice.enable_isolated_metadata and choice.enable_metadata_network):
        return None
    ranges = [subnet.cidr for subnet in dhcp.subnets if subnet.ip_version == 4]
    if not ranges or not all(is_link_local_range(cidr) for cidr in ranges):
        return None
    routers = (port.device_id for port in dhcp.ports if is_router_interface(port))
    return min(routers, default=None)


def metadata_path(dhcp: DhcpNetwork, subnet: Subnet, choice: MetadataOptions) -> MetadataPath:
    """Which way a guest of `subnet` is told to go, before any guest exists."""
    isolated = subnet.id in isolated_subnets(dhcp.subnets, dhcp.ports)
    served = subnet in dhcp.served_subnets
    if served and choice.force_metadata:
        return MetadataPath(PathKind.DHCP, dhcp.own_address(subnet), "force_metadata is on")
    if served and isolated and choice.enable_isolated_metadata:
        return MetadataPath(
            PathKind.DHCP, dhcp.own_address(subnet), f"no router has {_gateway(subnet)} on this network"
        )
    if not isolated:
        return MetadataPath(PathKind.ROUTER, subnet.gateway_ip, f"a router has {_gateway(subnet)} on this network")
    return MetadataPath(PathKind.NONE, None, _unserved_reason(subnet, choice))


def _unserved_reason(subnet: Subnet, choice: MetadataOptions) -> str:
    alone = f"no router has {_gateway(subnet)} on this network"
    if not subnet.enable_dhcp:
        return f"{alone}, and DHCP is off on subnet {subnet.id}, so nothing can serve it there"
    if choice.enable_isolated_metadata:
        return f"{alone}, and the DHCP port has no address on subnet {subnet.id} yet"
    return f"{alone}, and both force_metadata and enable_isolated_metadata are off"


def _gateway(subnet: Subnet) -> str:
    return f"the gateway {subnet.gateway_ip}" if subnet.gateway_ip else "a gateway (the subnet names none)"
