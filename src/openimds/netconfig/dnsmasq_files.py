"""The files of a network's dnsmasq: addresses (`host`), names (`addn_hosts`), options (`opts`) and leases.

- Users may set DHCP options of their ports from an allow-list. Other options, and values with a character that could end
  a line of the file, are rejected (OSSA-2021-005: a newline in a value wrote options for other tenants).
- dnsmasq does not give an address to its new owner before the old owner's lease expires, so stale leases are released.
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

# The names that `dnsmasq --help dhcp` and `--help dhcp6` print (2.90).
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
# The options that DHCP itself uses to negotiate a lease. Users must not set them.
_RESERVED_CODES_V4 = frozenset({0, 50, 51, 52, 53, 54, 55, 57, 61, 82, 255})
_RESERVED_CODES_V6 = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 18, 25, 26})
_PLAIN_VALUE = re.compile(r"[\x20-\x7e]{0,255}")


def option_line(tag: str, option: ExtraDhcpOption) -> str | None:
    """`tag:port-…,option:bootfile-name,pxelinux.0`; None if the option is not allowed."""
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
_MICROSOFT_ROUTES = "249"  # The option that Windows used before option 121, with the same bytes.
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Lease:
    """An address of a port: one line of the hosts file."""

    port: Port
    subnet: Subnet
    ip_address: str
    hostname: str


@dataclass(frozen=True, slots=True)
class DnsmasqFiles:
    """The contents of the three files. Equal values mean that no reload is needed."""

    hosts: str
    names: str
    options: str


def dnsmasq_files(dhcp: DhcpNetwork, settings: DnsmasqSettings, options: MetadataOptions) -> DnsmasqFiles:
    """The files that dnsmasq reads again on SIGHUP."""
    leases = tuple(desired_leases(dhcp))
    return DnsmasqFiles(
        hosts="".join(_host_line(lease, settings) for lease in leases if hands_out_addresses(lease.subnet)),
        names="".join(_name_line(lease, settings) for lease in leases),
        options="".join(f"{line}\n" for line in _option_lines(dhcp, settings, options)),
    )


def desired_leases(dhcp: DhcpNetwork) -> Iterator[Lease]:
    """Each address of each port on a served subnet, in a stable order."""
    served = {subnet.id: subnet for subnet in dhcp.served_subnets}
    taken: set[str] = set()
    for port in dhcp.ports:
        for fixed in port.fixed_ips:
            if fixed.subnet_id in served:
                hostname = _hostname(port, fixed.ip_address, taken)
                yield Lease(port, served[fixed.subnet_id], fixed.ip_address, hostname)


def host_routes(dhcp: DhcpNetwork, subnet: Subnet, options: MetadataOptions) -> tuple[HostRoute, ...]:
    """The routes of option 121 on an IPv4 subnet; empty if option 3 suffices.

    A client that uses option 121 ignores option 3 (RFC 3442), so the routes include the default route.
    """
    gateway = _default_gateway(subnet)
    own = tuple(route for route in subnet.host_routes if route.destination != _DEFAULT_ROUTE)
    siblings = tuple(HostRoute(other.cidr, _ON_LINK_NEXT_HOP) for other in dhcp.subnets if _is_sibling(other, subnet))
    next_hop = metadata_path(dhcp, subnet, options).next_hop
    metadata = HostRoute(f"{METADATA_IPV4}/32", next_hop or "")
    no_metadata_route = next_hop is None or any(route.destination == metadata.destination for route in own)
    routes = (*siblings, *own) if no_metadata_route else (*siblings, *own, metadata)
    return (*routes, HostRoute(_DEFAULT_ROUTE, gateway)) if routes and gateway else routes


def rejected_options(dhcp: DhcpNetwork) -> tuple[tuple[str, str], ...]:
    """The (port id, option name) of each extra option that is not allowed, or whose value contains a line separator."""
    return tuple(
        (port.id, option.name)
        for port in dhcp.ports
        for option in port.extra_dhcp_options
        if option_line(_port_tag(port), option) is None
    )


def _hostname(port: Port, ip_address: str, taken: set[str]) -> str:
    """The port's DNS name; `host-192-168-40-5` if it has none, or shares it with another port of the network."""
    name = port.dns_name.lower()
    if not _LABEL.fullmatch(name) or name in taken:
        dashed = re.sub(r"[.:]", "-", ip_address)
        name = f"host-{dashed}0" if dashed.endswith("-") else f"host-{dashed}"
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


def _option_lines(dhcp: DhcpNetwork, settings: DnsmasqSettings, options: MetadataOptions) -> Iterator[str]:
    for subnet in dhcp.served_subnets:
        if subnet.ip_version == 4:
            yield from _subnet_options_v4(dhcp, subnet, options)
        elif answers_dhcp(subnet) or advertises(dhcp):
            yield from _subnet_options_v6(subnet, settings)
    for port in dhcp.ports:
        lines = (option_line(_port_tag(port), option) for option in port.extra_dhcp_options)
        yield from (line for line in lines if line is not None)


def _subnet_options_v4(dhcp: DhcpNetwork, subnet: Subnet, options: MetadataOptions) -> Iterator[str]:
    tag = f"tag:{subnet_tag(subnet)}"
    # An option without a value suppresses dnsmasq's default, which is dnsmasq itself: a DNS server that resolves nothing
    # outside of this network, so that an instance waits 30 s, and a router that does not forward.
    yield ",".join((tag, "option:dns-server", *_dns_servers(subnet)))
    routes = host_routes(dhcp, subnet, options)
    if routes:
        value = ",".join(f"{route.destination},{route.nexthop}" for route in routes)
        yield f"{tag},option:classless-static-route,{value}"
        yield f"{tag},{_MICROSOFT_ROUTES},{value}"
    gateway = _default_gateway(subnet)
    yield ",".join((tag, "option:router", *([gateway] if gateway else [])))


def _subnet_options_v6(subnet: Subnet, settings: DnsmasqSettings) -> Iterator[str]:
    tag = f"tag:{subnet_tag(subnet)}"
    yield ",".join((tag, "option6:dns-server", *(f"[{address}]" for address in _dns_servers(subnet))))
    if settings.dns_domain:
        yield f"{tag},option6:domain-search,{settings.dns_domain}"


def _dns_servers(subnet: Subnet) -> tuple[str, ...]:
    """The subnet's DNS servers. In Neutron the unspecified address means "no server"."""
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
class LeaseRecord:
    """A line of the lease file. An IPv6 lease identifies its client by `iaid` and `client_id` (the DUID), not by a MAC."""

    ip_address: str
    mac_address: str | None
    client_id: str | None
    iaid: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseFile:
    leases: tuple[LeaseRecord, ...]
    server_duid: str | None
    """The DUID of the server, which the release of an IPv6 lease needs."""


def parse_leases(text: str) -> LeaseFile:
    """Parses a lease file. Lines that are incomplete, because dnsmasq is writing, or malformed are skipped.

    IPv4: `1796000000 fa:16:3e:54:93:88 192.168.40.5 vm1 01:fa:16:3e:54:93:88`

    IPv6, after a line `duid 00:01:…`: `1796000000 1234567 2001:db8::5 vm1 00:01:00:01:…`
    """
    duid: str | None = None
    leases: list[LeaseRecord] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[0] == "duid":
            duid = fields[1]
        elif len(fields) == 5 and _is_lease(fields, is_ipv6=duid is not None):
            leases.append(_lease(fields, is_ipv6=duid is not None))
    return LeaseFile(tuple(leases), duid)


def without_leases(text: str, addresses: Collection[str]) -> str:
    """The text of a lease file without the leases of `addresses`."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not any(word in addresses for word in line.split()[2:3])
    )


def parse_hosts(text: str) -> dict[str, str]:
    """The MAC of each address in a hosts file.

    `fa:16:3e:54:93:88,set:port-…,host-192-168-40-5.openstacklocal,192.168.40.5`
    """
    entries = [line.split(",") for line in text.splitlines() if "," in line]
    return {entry[-1].strip("[]"): entry[0].lower() for entry in entries}


def stale_leases(
    leases: Iterable[LeaseRecord], desired: Mapping[str, str], former: Mapping[str, str]
) -> Iterator[LeaseRecord]:
    """The leases of clients that do not own the address. `desired` and `former` are the MAC of each address.

    An IPv6 lease has no MAC. It is stale if its address has no owner, or another owner than before.
    """
    for lease in leases:
        owner = desired.get(lease.ip_address)
        client = lease.mac_address or former.get(lease.ip_address, owner)
        if owner is None or owner != client:
            yield lease


def _is_lease(fields: list[str], *, is_ipv6: bool) -> bool:
    _expiry, client, address, _name, _client_id = fields
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    if is_ipv6:
        return version == 6 and client.removeprefix("T").isdecimal()
    return version == 4 and _MAC.fullmatch(client) is not None


def _lease(fields: list[str], *, is_ipv6: bool) -> LeaseRecord:
    _expiry, client, address, _name, client_id_field = fields
    client_id = None if client_id_field == "*" else client_id_field
    if is_ipv6:
        return LeaseRecord(address, None, client_id, iaid=client.removeprefix("T"))
    return LeaseRecord(address, client.lower(), client_id)
