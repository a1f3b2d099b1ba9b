"""A router, and the desired state of its `qrouter-…` namespace. The firewall is in the format of iptables-save.

- Metadata requests from an internal device are marked and redirected to the proxy's port. No other packet reaches that
  port (Launchpad 1865036), and no packet to the metadata service is forwarded.
- A floating IP is translated 1:1 in both directions, also for packets from the router's own networks.
- Other outgoing packets get the router's external address. A router with this shared address rejects new connections from
  the external network to internal ones, because a router of another project may have an extra route to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from openimds.netconfig.addresses import METADATA_IPV4, METADATA_IPV6, METADATA_IPV6_ON_DEVICE, METADATA_PORT
from openimds.netconfig.dhcp_network import is_inside, port_without_ipv6
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState, Route, Rules
from openimds.resources.network import FloatingIP, Network, Port, Router, Subnet, is_gateway, router_namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterView:
    """A router with its ports, subnets, networks and floating IPs."""

    router: Router
    internal_ports: tuple[Port, ...]
    """The internal interfaces, ordered by id."""
    gateway_port: Port | None
    subnets: Mapping[str, Subnet]
    """The subnets of all fixed IPs of the internal ports and the gateway port, by id."""
    networks: Mapping[str, Network]
    """The networks of the ports, by id."""
    floating_ips: tuple[FloatingIP, ...]
    """The associated floating IPs, ordered by id."""
    has_ipv6_kernel: bool = True
    """Whether the kernel supports IPv6."""

    def without_ipv6(self) -> RouterView:
        """The router without IPv6 routes, subnets and addresses, for a host without IPv6."""
        routes = tuple(route for route in self.router.routes if ":" not in route.destination)
        return replace(
            self,
            router=replace(self.router, routes=routes),
            internal_ports=tuple(port_without_ipv6(port) for port in self.internal_ports),
            gateway_port=port_without_ipv6(self.gateway_port) if self.gateway_port else None,
            subnets={key: subnet for key, subnet in self.subnets.items() if subnet.ip_version == 4},
            has_ipv6_kernel=False,
        )

    @property
    def ports(self) -> tuple[Port, ...]:
        return (*self.internal_ports, *((self.gateway_port,) if self.gateway_port else ()))

    def interface_addresses(self, port: Port) -> tuple[str, ...]:
        """The addresses with prefix length, such as `192.168.40.1/24`, one for each fixed IP."""
        return tuple(
            f"{fixed.ip_address}/{self.subnets[fixed.subnet_id].prefix_length}"
            for fixed in port.fixed_ips
            if fixed.subnet_id in self.subnets
        )

    def gateway_subnets(self, port: Port) -> tuple[Subnet, ...]:
        """The subnets for which the port is the gateway (`resources.network.is_gateway`), in the order of its fixed IPs."""
        subnets = (self.subnets[fixed.subnet_id] for fixed in port.fixed_ips if fixed.subnet_id in self.subnets)
        return tuple(subnet for subnet in subnets if is_gateway(port, subnet))

    def serves_ipv6(self, port: Port) -> bool:
        """Whether the port serves the IPv6 address of the metadata service."""
        return any(subnet.ip_version == 6 for subnet in self.gateway_subnets(port))

    def device_towards(self, next_hop: str) -> str | None:
        """The device of the port that has `next_hop` on one of its subnets."""
        for port in self.ports:
            for fixed in port.fixed_ips:
                subnet = self.subnets.get(fixed.subnet_id)
                if subnet is not None and is_inside(next_hop, subnet.cidr):
                    return port.router_device_name
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterMetadata:
    """The options in `l3_agent.ini` for the redirection of metadata requests."""

    enable_metadata_proxy: bool = True
    metadata_port: int = 9697
    access_mark: int = 0x1
    """The mark of metadata requests, in the lower 16 bits."""


INTERNAL_DEVICES = "qr-+"
EXTERNAL_MARK = "0x2/0xffff"
"""The mark of packets from the external network. They keep their source address when they are sent to a floating IP."""


def ipv4_rules(view: RouterView, metadata: RouterMetadata) -> Rules:
    """The rules for the metadata service, floating IPs and the shared address."""
    service = f"{METADATA_IPV4}/32"
    nat = (
        *_redirect(service, metadata),
        *_floating_destinations(view),
        *_floating_sources(view),
        *_shared_source(view),
    )
    mangle = (*_mark_metadata(service, metadata), *_mark_external(view))
    return _rules(nat=nat, mangle=mangle, filtering=(*_filter_metadata(service, metadata), *_reject_external(view)))


def ipv6_rules(metadata: RouterMetadata) -> Rules:
    """The rules for the metadata service. IPv6 is not translated."""
    service = f"{METADATA_IPV6}/128"
    return _rules(
        nat=tuple(_redirect(service, metadata)),
        mangle=tuple(_mark_metadata(service, metadata)),
        filtering=tuple(_filter_metadata(service, metadata)),
    )


def _rules(*, nat: tuple[str, ...], mangle: tuple[str, ...], filtering: tuple[str, ...]) -> Rules:
    return Rules({"nat": nat, "mangle": mangle, "filter": filtering})


def _to_service(service: str) -> str:
    return f"-A PREROUTING -d {service} -i {INTERNAL_DEVICES} -p tcp -m tcp --dport {METADATA_PORT}"


def _redirect(service: str, metadata: RouterMetadata) -> Iterator[str]:
    if metadata.enable_metadata_proxy:
        yield f"{_to_service(service)} -j REDIRECT --to-ports {metadata.metadata_port}"


def _mark_metadata(service: str, metadata: RouterMetadata) -> Iterator[str]:
    if metadata.enable_metadata_proxy:
        yield f"{_to_service(service)} -j MARK --set-xmark {_access_mark(metadata)}"


def _filter_metadata(service: str, metadata: RouterMetadata) -> Iterator[str]:
    if metadata.enable_metadata_proxy:
        yield f"-A INPUT -m mark --mark {_access_mark(metadata)} -j ACCEPT"
        yield f"-A INPUT -p tcp -m tcp --dport {metadata.metadata_port} -j DROP"
    # REJECT instead of DROP, so that an instance without a metadata service gets an error immediately and boots on.
    reject = "icmp6-port-unreachable" if ":" in service else "icmp-port-unreachable"
    yield f"-A FORWARD -d {service} -j REJECT --reject-with {reject}"


def _access_mark(metadata: RouterMetadata) -> str:
    return f"{metadata.access_mark:#x}/0xffff"


def _floating_destinations(view: RouterView) -> Iterator[str]:
    for chain in ("PREROUTING", "OUTPUT"):
        for floating in view.floating_ips:
            yield f"-A {chain} -d {floating.floating_ip_address}/32 -j DNAT --to-destination {floating.fixed_ip_address}"


def _floating_sources(view: RouterView) -> Iterator[str]:
    if view.gateway_port is None:
        return
    # Packets between the router's own networks are not translated, unless they were sent to a floating IP.
    yield (f"-A POSTROUTING ! -o {view.gateway_port.router_device_name} -m conntrack ! --ctstate DNAT -j ACCEPT")
    for floating in view.floating_ips:
        yield _source(f"-s {floating.fixed_ip_address}/32", floating.floating_ip_address)


def _shared_source(view: RouterView) -> Iterator[str]:
    address = external_address(view)
    gateway = view.router.external_gateway
    if address is None or gateway is None or view.gateway_port is None or not gateway.enable_snat:
        return
    yield _source(f"-o {view.gateway_port.router_device_name}", address)
    # Responses to an instance that connects to a floating IP of its own router must pass through the router.
    yield _source(f"-m mark ! --mark {EXTERNAL_MARK} -m conntrack --ctstate DNAT", address)


def _reject_external(view: RouterView) -> Iterator[str]:
    gateway, port = view.router.external_gateway, view.gateway_port
    if gateway is not None and port is not None and gateway.enable_snat:
        new = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
        yield f"-A FORWARD -i {port.router_device_name} {new} -j DROP"


def _source(match: str, address: str) -> str:
    return f"-A POSTROUTING {match} -j SNAT --to-source {address}"


def _mark_external(view: RouterView) -> Iterator[str]:
    if view.gateway_port is not None:
        yield f"-A PREROUTING -i {view.gateway_port.router_device_name} -j MARK --set-xmark {EXTERNAL_MARK}"


def external_address(view: RouterView) -> str | None:
    """The router's own IPv4 address on the external network."""
    if view.gateway_port is None:
        return None
    return next((address for address in view.gateway_port.ip_addresses if ":" not in address), None)


def floating_ip_addresses(floating_ips: tuple[FloatingIP, ...]) -> tuple[str, ...]:
    """The addresses of the floating IPs on the external device."""
    return tuple(f"{floating.floating_ip_address}/32" for floating in floating_ips)


SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    # Enables IPv6 again if it was disabled in the namespace.
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    "net.ipv6.conf.all.forwarding": "1",
    # A router ignores the advertisements of other routers.
    "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    # A device responds to ARP requests only for its own addresses.
    "net.ipv4.conf.all.arp_ignore": "1",
    "net.ipv4.conf.all.arp_announce": "2",
    # When a replaced proxy closes its listener, pending connections move to the new listener instead of being reset.
    "net.ipv4.tcp_migrate_req": "1",
}


def router_bridges(view: RouterView) -> tuple[Bridge, ...]:
    """The bridges that the devices of the namespace are attached to."""
    networks = {port.network_id: view.networks[port.network_id] for port in view.ports}
    return tuple(Bridge(name=network.bridge_name, mtu=network.mtu) for network in networks.values())


def router_namespace_state(view: RouterView, metadata: RouterMetadata, namespace_prefix: str = "") -> NamespaceState:
    """The namespace of a router. With `admin_state_up` false it has no devices and no routes."""
    is_up = view.router.admin_state_up
    ports = view.ports if is_up else ()
    return NamespaceState(
        name=router_namespace(view.router.id, namespace_prefix),
        devices=tuple(_device(view, port, metadata) for port in ports),
        routes=frozenset(_routes(view)) if is_up else frozenset(),
        sysctls=SYSCTLS,
        ipv4_rules=ipv4_rules(view, metadata),
        ipv6_rules=ipv6_rules(metadata) if view.has_ipv6_kernel else Rules(),
    )


def unreachable_routes(view: RouterView) -> tuple[str, ...]:
    """The destinations of extra routes that cannot be set, because no subnet of the router contains the next hop."""
    return tuple(route.destination for route in view.router.routes if view.device_towards(route.nexthop) is None)


def _device(view: RouterView, port: Port, metadata: RouterMetadata) -> Device:
    addresses = set(view.interface_addresses(port))
    if port is view.gateway_port:
        addresses.update(floating_ip_addresses(view.floating_ips))
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
    """Extra routes and default routes. Of extra routes to one destination the last has effect, as in Neutron."""
    extra: dict[str, Route] = {}
    for route in view.router.routes:
        device = view.device_towards(route.nexthop)
        if device is not None:
            extra[route.destination] = Route(route.destination, route.nexthop, device)
    yield from extra.values()
    explicit = {route.destination for route in view.router.routes}
    for default in _default_routes(view):
        if default.destination not in explicit:
            yield default


def _default_routes(view: RouterView) -> Iterator[Route]:
    """The default route of each address family, through a gateway of the external network."""
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
