"""A network with DHCP, its DHCP port, and the desired state of its `qdhcp-…` namespace."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace

from openimds.netconfig.addresses import METADATA_IPV4_ON_DEVICE, METADATA_IPV6_ON_DEVICE
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState, Route
from openimds.resources.network import DEVICE_OWNER_DHCP, FixedIP, Network, Port, Subnet, dhcp_namespace

# Neutron derives the device id of a DHCP port only from the host's name, so that an agent finds its ports again.
_HOST_NAMESPACE = uuid.NAMESPACE_DNS


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataOptions:
    """The options in `dhcp_agent.ini` that decide whether the metadata proxy runs in the DHCP namespace."""

    force_metadata: bool = False
    enable_isolated_metadata: bool = False
    enable_metadata_network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpNetwork:
    """A network with at least one DHCP subnet."""

    network: Network
    subnets: tuple[Subnet, ...]
    """All subnets of the network, by id."""
    ports: tuple[Port, ...]
    """All ports of the network, by id."""
    dhcp_port: Port
    """The DHCP port of this host."""

    @property
    def served_subnets(self) -> tuple[Subnet, ...]:
        """The DHCP subnets on which the DHCP port has an address. The others cannot be served yet."""
        with_address = {fixed.subnet_id for fixed in self.dhcp_port.fixed_ips}
        return tuple(subnet for subnet in self.subnets if subnet.enable_dhcp and subnet.id in with_address)

    @property
    def device_name(self) -> str:
        return self.dhcp_port.tap_name

    def own_address(self, subnet: Subnet) -> str:
        """The DHCP port's address on a served subnet."""
        return next(fixed.ip_address for fixed in self.dhcp_port.fixed_ips if fixed.subnet_id == subnet.id)

    def without_ipv6(self) -> DhcpNetwork:
        """The network without IPv6 subnets and addresses, for a host without IPv6."""
        subnets = tuple(subnet for subnet in self.subnets if subnet.ip_version == 4)
        return replace(
            self,
            subnets=subnets,
            ports=tuple(port_without_ipv6(port) for port in self.ports),
            dhcp_port=port_without_ipv6(self.dhcp_port),
        )


def port_without_ipv6(port: Port) -> Port:
    return replace(port, fixed_ips=tuple(fixed for fixed in port.fixed_ips if ":" not in fixed.ip_address))


def needs_dhcp(network: Network, subnets: Iterable[Subnet]) -> bool:
    """Whether the DHCP agent serves the network."""
    return network.admin_state_up and any(subnet.enable_dhcp for subnet in subnets)


def dhcp_device_id(host: str, network_id: str) -> str:
    """The device id of a DHCP port, as in Neutron: `dhcp<uuid5 of the host's short name>-<network id>`."""
    short_name = host.split(".", maxsplit=1)[0]
    return f"dhcp{uuid.uuid5(_HOST_NAMESPACE, short_name)}-{network_id}"


def own_dhcp_port(ports: Iterable[Port], host: str, network_id: str) -> Port | None:
    """The DHCP port of `host` on the network; the one with the lowest id if a race has created two."""
    device_id = dhcp_device_id(host, network_id)
    own = [port for port in ports if port.device_owner == DEVICE_OWNER_DHCP and port.device_id == device_id]
    return min(own, key=lambda port: port.id, default=None)


def desired_fixed_ips(subnets: Iterable[Subnet], port: Port | None) -> tuple[FixedIP, ...] | None:
    """The fixed IPs to request for the DHCP port, one for each DHCP subnet; None if the port has exactly these.

    Existing addresses are kept. An empty address lets the server allocate one.
    """
    dhcp_subnets = sorted(subnet.id for subnet in subnets if subnet.enable_dhcp)
    current = {fixed.subnet_id: fixed for fixed in port.fixed_ips} if port else {}
    if port is not None and sorted(fixed.subnet_id for fixed in port.fixed_ips) == dhcp_subnets:
        return None
    return tuple(current.get(subnet_id, FixedIP(subnet_id, "")) for subnet_id in dhcp_subnets)


def is_inside(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr, strict=False)


SYSCTLS = {
    # When a replaced proxy closes its listener, pending connections move to the new listener instead of being reset.
    "net.ipv4.tcp_migrate_req": "1",
    # The proxy may bind fe80::a9fe:a9fe during duplicate address detection.
    "net.ipv6.ip_nonlocal_bind": "1",
    # Enables IPv6 again if it was disabled in the namespace.
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    # The addresses of the device are the fixed IPs of the port. An instance can forge router advertisements.
    "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv6.conf.default.accept_ra": "0",
}


def network_bridge(dhcp: DhcpNetwork) -> Bridge:
    return Bridge(name=dhcp.network.bridge_name, mtu=dhcp.network.mtu)


def dhcp_namespace_state(dhcp: DhcpNetwork, *, has_proxy: bool, namespace_prefix: str = "") -> NamespaceState:
    """The namespace with the device of the DHCP port. With a proxy, the device also has the metadata addresses."""
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
    """The default route of each address family, so that responses reach instances on the other subnets.

    The first subnet with a gateway provides the route.
    """
    routes: dict[int, Route] = {}
    for subnet in dhcp.served_subnets:
        if _has_own_gateway(dhcp, subnet):
            everything = "0.0.0.0/0" if subnet.ip_version == 4 else "::/0"
            routes.setdefault(subnet.ip_version, Route(everything, subnet.gateway_ip, dhcp.device_name))
    return frozenset(routes.values())


def _has_own_gateway(dhcp: DhcpNetwork, subnet: Subnet) -> bool:
    gateway = subnet.gateway_ip
    return gateway is not None and is_inside(gateway, subnet.cidr) and gateway != dhcp.own_address(subnet)
