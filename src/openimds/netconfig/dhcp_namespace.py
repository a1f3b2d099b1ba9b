"""What a `qdhcp-…` namespace looks like."""

from __future__ import annotations

from openimds.netconfig.addresses import METADATA_IPV4_ON_DEVICE, METADATA_IPV6_ON_DEVICE
from openimds.netconfig.dhcp_network import DhcpNetwork, is_inside
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState, Route
from openimds.resources.network import Subnet, dhcp_namespace

SYSCTLS = {
    # A proxy that is replaced closes its listener: waiting connections move to the new one's instead of being reset.
    "net.ipv4.tcp_migrate_req": "1",
    # The proxy may bind fe80::a9fe:a9fe while the kernel still looks for a duplicate of it.
    "net.ipv6.ip_nonlocal_bind": "1",
    # Switched on where somebody switched it off.
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    # The address comes from the port, and a guest's forged advertisement changes nothing here.
    "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv6.conf.default.accept_ra": "0",
}


def network_bridge(dhcp: DhcpNetwork) -> Bridge:
    return Bridge(name=dhcp.network.bridge_name, mtu=dhcp.network.mtu)


def dhcp_namespace_state(dhcp: DhcpNetwork, *, has_proxy: bool, namespace_prefix: str = "") -> NamespaceState:
    """The DHCP port's device with its addresses; with the proxy, the metadata service's addresses beside them."""
    device = Device(
        name=dhcp.device_name,
        host_name=dhcp.dhcp_port.tap_name,
        bridge=dhcp.network.bridge_name,
        mac_address=dhcp.dhcp_port.mac_address,
        mtu=dhcp.network.mtu,
        addresses=_addresses(dhcp, has_proxy=has_proxy),
    )
    return NamespaceState(
        name=dhcp_namespace(dhcp.network.id, namespace_prefix),
        devices=(device,),
        routes=_default_routes(dhcp),
        sysctls=SYSCTLS,
    )


def serves_ipv6(dhcp: DhcpNetwork) -> bool:
    return any(subnet.ip_version == 6 for subnet in dhcp.subnets)


def _addresses(dhcp: DhcpNetwork, *, has_proxy: bool) -> frozenset[str]:
    own = {f"{dhcp.own_address(subnet)}/{subnet.prefix_length}" for subnet in dhcp.served_subnets}
    if has_proxy:
        own.add(METADATA_IPV4_ON_DEVICE)
    if has_proxy and serves_ipv6(dhcp):
        own.add(METADATA_IPV6_ON_DEVICE)
    return frozenset(own)


def _default_routes(dhcp: DhcpNetwork) -> frozenset[Route]:
    """One a family, by the first subnet that has a gateway: answers reach guests of the network's other subnets."""
    routes: dict[int, Route] = {}
    for subnet in dhcp.served_subnets:
        if _has_own_gateway(dhcp, subnet):
            everything = "0.0.0.0/0" if subnet.ip_version == 4 else "::/0"
            routes.setdefault(subnet.ip_version, Route(everything, subnet.gateway_ip, dhcp.device_name))
    return frozenset(routes.values())


def _has_own_gateway(dhcp: DhcpNetwork, subnet: Subnet) -> bool:
    gateway = subnet.gateway_ip
    return gateway is not None and is_inside(gateway, subnet.cidr) and gateway != dhcp.own_address(subnet)
