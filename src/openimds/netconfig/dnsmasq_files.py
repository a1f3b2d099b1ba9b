"""The DHCP options that a port's owner may set for its guest: an allow-list.

Whatever is not on it, or holds a character that could end a line of dnsmasq's file, is refused
(OSSA-2021-005: a newline in an option's value wrote options for other tenants).

What dnsmasq reads: who has which address (`host`), names (`addn_hosts`) and options (`opts`), as texts.

dnsmasq's lease file, and which of its leases stand in another port's way.

dnsmasq does not give an address to its new owner while the old one's lease runs, so such leases are released.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from openimds.netconfig.addresses import METADATA_IPV4
from openimds.netconfig.dhcp_network import DhcpNetwork, MetadataOptions
from openimds.netconfig.dnsmasq_command import (
    DnsmasqSettings,
    advertises,
    answers_dhcp,
    hands_out_addresses,
    subnet_tag,
)
from openimds.netconfig.metadata_path import metadata_path
from openimds.resources.network import ExtraDhcpOption, HostRoute, Port, Subnet

# As `dnsmasq --help dhcp` and `--help dhcp6` (2.90) know them.
_NAMES_V4 = frozenset(
    """
    netmask time-offset router dns-server log-server lpr-server boot-file-size domain-name swap-server
    root-path extension-path ip-forward-enable non-local-source-routing policy-filter max-datagram-reassembly
    default-ttl mtu all-subnets-local router-discovery router-solicitation static-route trailer-encapsulation
    arp-timeout ethernet-encap tcp-ttl tcp-keepalive nis-domain nis-server ntp-server netbios-ns netbios-dd
    netbios-nodetype netbios-scope x-windows-fs x-windows-dm T1 T2 vendor-class nis+-domain nis+-server
    tftp-server bootfile-name mobile-ip-home smtp-server pop3-server nntp-server irc-server user-class
    rapid-commit client-arch client-interface-id client-machine-id posix-timezone tzdb-timezone ipv6-only
    domain-search sip-server classless-static-route vendor-id-encap tftp-server-address server-ip-address
    """.split()  # noqa: SIM905 - reads better than 60 lines of one word each
)
_NAMES_V6 = frozenset(
    """
    sip-server-domain sip-server dns-server domain-search nis-server nis+-server nis-domain nis+-domain
    sntp-server information-refresh-time posix-timezone tzdb-timezone ntp-server bootfile-url bootfile-param
    """.split()  # noqa: SIM905 - reads better than 60 lines of one word each
)
# Those by which a server and its clients agree on a lease; a guest's owner has no say in them.
_RESERVED_CODES_V4 = frozenset({0, 50, 51, 52, 53, 54, 55, 57, 61, 82, 255})
_RESERVED_CODES_V6 = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 18, 25, 26})
_PLAIN_VALUE = re.compile(r"[\x20-\x7e]{0,255}")


def option_line(tag: str, option: ExtraDhcpOption) -> str | None:
    """`tag:port-…,option:bootfile-name,pxelinux.0`; None when the option is not allowed."""
    name = _option_name(option.name, option.ip_version)
    if name is None or not _PLAIN_VALUE.fullmatch(option.value):
        return None
    return f"tag:{tag},{name},{option.value}" if option.value else f"tag:{tag},{name}"


def _option_name(name: str, ip_version: int) -> str | None:
    family, names, reserved = (
        ("option", _NAMES_V4, _RESERVED_CODES_V4) if ip_version == 4 else ("option6", _NAMES_V6, _RESERVED_CODES_V6)
    )
    if name.isascii() and name.isdigit():
        code = int(name)
        if code in reserved or code > (255 if ip_version == 4 else 65535):
            return None
        return str(code) if ip_version == 4 else f"option6:{code}"
    return f"{family}:{name}" if name in names else None


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


_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A line of the lease file. IPv6 leases name their holder by `iaid` and `client_id` (its DUID), not by a MAC."""

    ip_address: str
    mac_address: str | None
    client_id: str | None
    iaid: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseFile:
    leases: tuple[HeldLease, ...]
    server_duid: str | None
    """Needed to release an IPv6 lease."""


def parse_leases(text: str) -> LeaseFile:
    """The lease file's text; lines that are not whole (dnsmasq is writing), or are no leases, are left out.

    `1796000000 fa:16:3e:54:93:88 192.168.40.5 vm1 01:fa:16:3e:54:93:88`; after a line `duid 00:01:…`, IPv6:
    `1796000000 1234567 2001:db8::5 vm1 00:01:00:01:…`
    """
    duid: str | None = None
    leases: list[HeldLease] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "duid":
            duid = words[1]
        elif len(words) == 5 and _is_lease(words, is_ipv6=duid is not None):
            leases.append(_lease(words, is_ipv6=duid is not None))
    return LeaseFile(tuple(leases), duid)


def without_leases(text: str, addresses: Collection[str]) -> str:
    """The lease file's text without the lines that lease one of `addresses`."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not any(word in addresses for word in line.split()[2:3])
    )


def parse_hosts(text: str) -> dict[str, str]:
    """Address → MAC of a host file: `fa:16:3e:54:93:88,set:port-…,host-192-168-40-5.openstacklocal,192.168.40.5`."""
    entries = [line.split(",") for line in text.splitlines() if "," in line]
    return {entry[-1].strip("[]"): entry[0].lower() for entry in entries}


def stale_leases(
    held: Iterable[HeldLease], wanted: Mapping[str, str], former: Mapping[str, str]
) -> Iterator[HeldLease]:
    """The leases that are no longer their holders'. `wanted` and `former`: address → MAC, now and before.

    An IPv6 lease does not tell its holder's MAC: it is stale when its address is nobody's, or another port's than before.
    """
    for lease in held:
        owner = wanted.get(lease.ip_address)
        holder = lease.mac_address or former.get(lease.ip_address, owner)
        if owner is None or owner != holder:
            yield lease


def _is_lease(words: list[str], *, is_ipv6: bool) -> bool:
    _expiry, holder, address, _name, _client = words
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    if is_ipv6:
        return version == 6 and holder.removeprefix("T").isdecimal()
    return version == 4 and _MAC.fullmatch(holder) is not None


def _lease(words: list[str], *, is_ipv6: bool) -> HeldLease:
    _expiry, holder, address, _name, client = words
    client_id = None if client == "*" else client
    if is_ipv6:
        return HeldLease(address, None, client_id, iaid=holder.removeprefix("T"))
    return HeldLease(address, holder.lower(), client_id)
