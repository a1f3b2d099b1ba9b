"""What dnsmasq reads: who has which address (`host`), names (`addn_hosts`) and options (`opts`), as texts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from openimds.netconfig.addresses import METADATA_IPV4
from openimds.netconfig.dhcp_network import DhcpNetwork, MetadataOptions
from openimds.netconfig.dhcp_options import option_line
from openimds.netconfig.dnsmasq_command import (
    DnsmasqSettings,
    advertises,
    answers_dhcp,
    hands_out_addresses,
    subnet_tag,
)
from openimds.netconfig.metadata_path import metadata_path
from openimds.resources.network import HostRoute, Port, Subnet

_DEFAULT_ROUTE = "0.0.0.0/0"
_ON_LINK_NEXT_HOP = "0.0.0.0"
_MICROSOFT_ROUTES = "249"  # What Windows took before it knew option 121; the same bytes.
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Lease:
    """An address that a port may have: one line of the host file."""

    port: Port
    subnet: Subnet
    ip_address: str
    hostname: str


@dataclass(frozen=True, slots=True)
class DnsmasqFiles:
    """The three texts. Equal values mean that dnsmasq has nothing new to read."""

    hosts: str
    names: str
    options: str


def dnsmasq_files(dhcp: DhcpNetwork, settings: DnsmasqSettings, choice: MetadataOptions) -> DnsmasqFiles:
    """All that dnsmasq re-reads on SIGHUP."""
    leases = tuple(desired_leases(dhcp))
    return DnsmasqFiles(
        hosts="".join(_host_line(lease, settings) for lease in leases if hands_out_addresses(lease.subnet)),
        names="".join(_name_line(lease, settings) for lease in leases),
        options="".join(f"{line}\n" for line in _option_lines(dhcp, settings, choice)),
    )


def desired_leases(dhcp: DhcpNetwork) -> Iterator[Lease]:
    """Every port's every address on a served subnet, in a steady order."""
    served = {subnet.id: subnet for subnet in dhcp.served_subnets}
    taken: set[str] = set()
    for port in dhcp.ports:
        for fixed in port.fixed_ips:
            if fixed.subnet_id in served:
                hostname = _hostname(port, fixed.ip_address, taken)
                yield Lease(port, served[fixed.subnet_id], fixed.ip_address, hostname)


def host_routes(dhcp: DhcpNetwork, subnet: Subnet, choice: MetadataOptions) -> tuple[HostRoute, ...]:
    """What option 121 carries to a guest of an IPv4 subnet; empty: option 3 alone is enough.

    A client that takes option 121 ignores option 3 (RFC 3442), so the default route is said again.
    """
    gateway = _default_gateway(subnet)
    own = tuple(route for route in subnet.host_routes if route.destination != _DEFAULT_ROUTE)
    siblings = tuple(HostRoute(other.cidr, _ON_LINK_NEXT_HOP) for other in dhcp.subnets if _is_sibling(other, subnet))
    next_hop = metadata_path(dhcp, subnet, choice).next_hop
    metadata = HostRoute(f"{METADATA_IPV4}/32", next_hop or "")
    is_said = next_hop is None or any(route.destination == metadata.destination for route in own)
    routes = (*siblings, *own) if is_said else (*siblings, *own, metadata)
    return (*routes, HostRoute(_DEFAULT_ROUTE, gateway)) if routes and gateway else routes


def rejected_options(dhcp: DhcpNetwork) -> tuple[tuple[str, str], ...]:
    """(port id, option name) of the extra options that are not handed out: not allowed, or not one plain line."""
    return tuple(
        (port.id, option.name)
        for port in dhcp.ports
        for option in port.extra_dhcp_options
        if option_line(_port_tag(port), option) is None
    )


def _hostname(port: Port, ip_address: str, taken: set[str]) -> str:
    """The port's DNS name; where it has none, or another port of the network has it too, `host-192-168-40-5`."""
    name = port.dns_name.lower()
    if not _LABEL.fullmatch(name) or name in taken:
        spelled = re.sub(r"[.:]", "-", ip_address)
        name = f"host-{spelled}0" if spelled.endswith("-") else f"host-{spelled}"
    taken.add(name)
    return name


def _qualified(hostname: str, settings: DnsmasqSettings) -> str:
    return f"{hostname}.{settings.dns_domain}" if settings.dns_domain else hostname


def _host_line(lease: Lease, settings: DnsmasqSettings) -> str:
    """`fa:16:3e:54:93:88,host-192-168-40-5.openstacklocal,192.168.40.5`"""
    address = f"[{lease.ip_address}]" if lease.subnet.ip_version == 6 else lease.ip_address
    tag = f",set:{_port_tag(lease.port)}" if lease.port.extra_dhcp_options else ""
    return f"{lease.port.mac_address}{tag},{_qualified(lease.hostname, settings)},{address}\n"


def _name_line(lease: Lease, settings: DnsmasqSettings) -> str:
    """`192.168.40.5	host-192-168-40-5.openstacklocal host-192-168-40-5`"""
    qualified = _qualified(lease.hostname, settings)
    names = qualified if qualified == lease.hostname else f"{qualified} {lease.hostname}"
    return f"{lease.ip_address}\t{names}\n"


def _option_lines(dhcp: DhcpNetwork, settings: DnsmasqSettings, choice: MetadataOptions) -> Iterator[str]:
    for subnet in dhcp.served_subnets:
        if subnet.ip_version == 4:
            yield from _subnet_options_v4(dhcp, subnet, choice)
        elif answers_dhcp(subnet) or advertises(dhcp):
            yield from _subnet_options_v6(subnet, settings)
    for port in dhcp.ports:
        lines = (option_line(_port_tag(port), option) for option in port.extra_dhcp_options)
        yield from (line for line in lines if line is not None)


def _subnet_options_v4(dhcp: DhcpNetwork, subnet: Subnet, choice: MetadataOptions) -> Iterator[str]:
    tag = f"tag:{subnet_tag(subnet)}"
    # An option without a value is not sent. Left out, dnsmasq would name itself: as a DNS server that can resolve
    # nothing beyond this network (a guest waits 30 s for it), as a router that does not forward.
    yield ",".join((tag, "option:dns-server", *_dns_servers(subnet)))
    routes = host_routes(dhcp, subnet, choice)
    if routes:
        spelled = ",".join(f"{route.destination},{route.nexthop}" for route in routes)
        yield f"{tag},option:classless-static-route,{spelled}"
        yield f"{tag},{_MICROSOFT_ROUTES},{spelled}"
    gateway = _default_gateway(subnet)
    yield ",".join((tag, "option:router", *([gateway] if gateway else [])))


def _subnet_options_v6(subnet: Subnet, settings: DnsmasqSettings) -> Iterator[str]:
    tag = f"tag:{subnet_tag(subnet)}"
    yield ",".join((tag, "option6:dns-server", *(f"[{address}]" for address in _dns_servers(subnet))))
    if settings.dns_domain:
        yield f"{tag},option6:domain-search,{settings.dns_domain}"


def _dns_servers(subnet: Subnet) -> tuple[str, ...]:
    """The subnet's; the unspecified address is Neutron's way to say "none"."""
    return tuple(address for address in subnet.dns_nameservers if not ipaddress.ip_address(address).is_unspecified)


def _default_gateway(subnet: Subnet) -> str | None:
    explicit = (route.nexthop for route in subnet.host_routes if route.destination == _DEFAULT_ROUTE)
    return subnet.gateway_ip or next(explicit, None)


def _is_sibling(other: Subnet, subnet: Subnet) -> bool:
    return other.id != subnet.id and other.ip_version == 4 and other.cidr != subnet.cidr


def _port_tag(port: Port) -> str:
    return f"port-{port.id}"
