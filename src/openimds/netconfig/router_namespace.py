"""A router as its namespace must know it, whole.

A router's firewall, in the spelling of iptables-save.

- Requests to the metadata service that come in by an internal device are marked and redirected to the proxy's port;
  nothing else reaches that port (Launchpad 1865036), and none of them is ever forwarded.
- Floating IPs are 1:1: the address is translated both ways, also from inside the router's own networks.
- Other packets that leave by the external device take the router's external address. With such a shared address no
  connection from outside is routed to an internal network: other projects' routers are on the same external network, and
  any of them could lead an extra route here.

What a `qrouter-…` namespace looks like.
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
    """A router with all that hangs on it."""

    router: Router
    internal_ports: tuple[Port, ...]
    """In the order of their ids."""
    gateway_port: Port | None
    subnets: Mapping[str, Subnet]
    """Those of the ports' fixed IPs, by id."""
    networks: Mapping[str, Network]
    """Those of the ports, by id."""
    floating_ips: tuple[FloatingIP, ...]
    """The associated ones of this router, in the order of their ids."""
    has_ipv6_kernel: bool = True
    """False: `without_ipv6`."""

    def without_ipv6(self) -> RouterView:
        """As a host without IPv6 can make it."""
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
        """`192.168.40.1/24`, one a fixed IP."""
        return tuple(
            f"{fixed.ip_address}/{self.subnets[fixed.subnet_id].prefix_length}"
            for fixed in port.fixed_ips
            if fixed.subnet_id in self.subnets
        )

    def gateway_subnets(self, port: Port) -> tuple[Subnet, ...]:
        """The subnets that this interface acts for (`resources.network.is_gateway`), in the order of its fixed IPs."""
        subnets = (self.subnets[fixed.subnet_id] for fixed in port.fixed_ips if fixed.subnet_id in self.subnets)
        return tuple(subnet for subnet in subnets if is_gateway(port, subnet))

    def serves_ipv6(self, port: Port) -> bool:
        """Whether guests may find the metadata service at its IPv6 address on this interface."""
        return any(subnet.ip_version == 6 for subnet in self.gateway_subnets(port))

    def device_towards(self, next_hop: str) -> str | None:
        """The device of the port that has `next_hop` on its link."""
        for port in self.ports:
            for fixed in port.fixed_ips:
                subnet = self.subnets.get(fixed.subnet_id)
                if subnet is not None and is_inside(next_hop, subnet.cidr):
                    return port.router_device_name
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterMetadata:
    """`l3_agent.ini`: how requests for metadata are caught."""

    enable_metadata_proxy: bool = True
    metadata_port: int = 9697
    access_mark: int = 0x1
    """The lower 16 bits of the packets' mark."""


INTERNAL_DEVICES = "qr-+"
EXTERNAL_MARK = "0x2/0xffff"
"""On packets that came in from outside: they keep their source, all others that were sent to a floating IP do not."""


def ipv4_rules(view: RouterView, metadata: RouterMetadata) -> Rules:
    """The metadata service, floating IPs and the shared address."""
    service = f"{METADATA_IPV4}/32"
    nat = (
        *_redirect(service, metadata),
        *_floating_destinations(view),
        *_floating_sources(view),
        *_shared_source(view),
    )
    mangle = (*_mark_metadata(service, metadata), *_mark_external(view))
    return _rules(nat=nat, mangle=mangle, filtering=(*_guard(service, metadata), *_close_external(view)))


def ipv6_rules(metadata: RouterMetadata) -> Rules:
    """IPv6 is routed, not translated: there is only the metadata service."""
    service = f"{METADATA_IPV6}/128"
    return _rules(
        nat=tuple(_redirect(service, metadata)),
        mangle=tuple(_mark_metadata(service, metadata)),
        filtering=tuple(_guard(service, metadata)),
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


def _guard(service: str, metadata: RouterMetadata) -> Iterator[str]:
    if metadata.enable_metadata_proxy:
        yield f"-A INPUT -m mark --mark {_access_mark(metadata)} -j ACCEPT"
        yield f"-A INPUT -p tcp -m tcp --dport {metadata.metadata_port} -j DROP"
    # Refused, not dropped: a guest without a service hears so at once, and boots on.
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
    # Between the router's own networks nothing is translated, but for what was sent to a floating IP.
    yield (f"-A POSTROUTING ! -o {view.gateway_port.router_device_name} -m conntrack ! --ctstate DNAT -j ACCEPT")
    for floating in view.floating_ips:
        yield _source(f"-s {floating.fixed_ip_address}/32", floating.floating_ip_address)


def _shared_source(view: RouterView) -> Iterator[str]:
    address = external_address(view)
    gateway = view.router.external_gateway
    if address is None or gateway is None or view.gateway_port is None or not gateway.enable_snat:
        return
    yield _source(f"-o {view.gateway_port.router_device_name}", address)
    # A guest that speaks to a floating IP of its own router gets its answer back through the router.
    yield _source(f"-m mark ! --mark {EXTERNAL_MARK} -m conntrack --ctstate DNAT", address)


def _close_external(view: RouterView) -> Iterator[str]:
    gateway, port = view.router.external_gateway, view.gateway_port
    if gateway is not None and port is not None and gateway.enable_snat:
        new = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
        yield f"-A FORWARD -i {port.router_device_name} {new} -j DROP"


def _source(matching: str, address: str) -> str:
    return f"-A POSTROUTING {matching} -j SNAT --to-source {address}"


def _mark_external(view: RouterView) -> Iterator[str]:
    if view.gateway_port is not None:
        yield f"-A PREROUTING -i {view.gateway_port.router_device_name} -j MARK --set-xmark {EXTERNAL_MARK}"


def external_address(view: RouterView) -> str | None:
    """The router's own IPv4 address outside."""
    if view.gateway_port is None:
        return None
    return next((address for address in view.gateway_port.ip_addresses if ":" not in address), None)


def external_only(floating_ips: tuple[FloatingIP, ...]) -> tuple[str, ...]:
    """The floating addresses as they stand on the external device."""
    return tuple(f"{floating.floating_ip_address}/32" for floating in floating_ips)


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
