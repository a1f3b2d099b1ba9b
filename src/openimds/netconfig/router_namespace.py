"""What a `qrouter-…` namespace looks like."""

from __future__ import annotations

from collections.abc import Iterator

from openimds.netconfig.addresses import METADATA_IPV6_ON_DEVICE
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState, Route, Rules
from openimds.netconfig.router_rules import external_only, ipv4_rules, ipv6_rules
from openimds.netconfig.router_view import RouterMetadata, RouterView
from openimds.resources.network import Port, Subnet, router_namespace

SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    # Switched on where somebody switched it off.
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    "net.ipv6.conf.all.forwarding": "1",
    # A router learns nothing from others' advertisements.
    "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    # Each address is answered for on its own device only.
    "net.ipv4.conf.all.arp_ignore": "1",
    "net.ipv4.conf.all.arp_announce": "2",
    # A proxy that is replaced closes its listener: waiting connections move to the new one's instead of being reset.
    "net.ipv4.tcp_migrate_req": "1",
}


def router_bridges(view: RouterView) -> tuple[Bridge, ...]:
    """The bridges that must be there before the namespace can be plugged in."""
    networks = {port.network_id: view.networks[port.network_id] for port in view.ports}
    return tuple(Bridge(name=network.bridge_name, mtu=network.mtu) for network in networks.values())


def router_namespace_state(view: RouterView, metadata: RouterMetadata, namespace_prefix: str = "") -> NamespaceState:
    """Devices, routes, firewall. A router whose `admin_state_up` is false keeps its namespace, without devices."""
    switched_on = view.router.admin_state_up
    ports = view.ports if switched_on else ()
    return NamespaceState(
        name=router_namespace(view.router.id, namespace_prefix),
        devices=tuple(_device(view, port, metadata) for port in ports),
        routes=frozenset(_routes(view)) if switched_on else frozenset(),
        sysctls=SYSCTLS,
        ipv4_rules=ipv4_rules(view, metadata),
        ipv6_rules=ipv6_rules(metadata) if view.has_ipv6_kernel else Rules(),
    )


def unreachable_routes(view: RouterView) -> tuple[str, ...]:
    """The destinations of extra routes whose next hop is on none of the router's links: they cannot be set."""
    return tuple(route.destination for route in view.router.routes if view.device_towards(route.nexthop) is None)


def _device(view: RouterView, port: Port, metadata: RouterMetadata) -> Device:
    addresses = set(view.interface_addresses(port))
    if port is view.gateway_port:
        addresses.update(external_only(view.floating_ips))
    elif metadata.enable_metadata_proxy and view.serves_ipv6(port):
        addresses.add(METADATA_IPV6_ON_DEVICE)
    network = view.networks[port.network_id]
    return Device(
        name=port.router_device_name,
        host_name=port.tap_name,
        bridge=network.bridge_name,
        mac_address=port.mac_address,
        mtu=network.mtu,
        addresses=frozenset(addresses),
    )


def _routes(view: RouterView) -> Iterator[Route]:
    for route in view.router.routes:
        device = view.device_towards(route.nexthop)
        if device is not None:
            yield Route(route.destination, route.nexthop, device)
    explicit = {route.destination for route in view.router.routes}
    for default in _default_routes(view):
        if default.destination not in explicit:
            yield default


def _default_routes(view: RouterView) -> Iterator[Route]:
    """Through the external network's gateways, one a family."""
    if view.gateway_port is None:
        return
    seen: set[int] = set()
    for subnet in _subnets_of(view, view.gateway_port):
        if subnet.gateway_ip is not None and subnet.ip_version not in seen:
            seen.add(subnet.ip_version)
            everything = "0.0.0.0/0" if subnet.ip_version == 4 else "::/0"
            yield Route(everything, subnet.gateway_ip, view.gateway_port.router_device_name)


def _subnets_of(view: RouterView, port: Port) -> Iterator[Subnet]:
    for fixed in port.fixed_ips:
        subnet = view.subnets.get(fixed.subnet_id)
        if subnet is not None and subnet.gateway_ip != fixed.ip_address:
            yield subnet
