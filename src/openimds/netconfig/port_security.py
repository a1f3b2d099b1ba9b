"""The nftables rules that limit the packets that an instance may send, in the host's table of family bridge.

    table bridge openimds {
        map instances { type ifname : verdict; elements = { "tap01e7ee7b-98" : jump tap01e7ee7b-98 } }
        chain prerouting { type filter hook prerouting priority filter; policy accept; iifname vmap @instances }
        chain tap01e7ee7b-98 { … }
    }

The metadata service identifies an instance by its source address, so an instance must not use another's address.
1. An instance sends only from its own MAC, and from its own addresses or its allowed address pairs.
2. It sends ARP announcements and probes, neighbour advertisements and duplicate address detection only for these
   addresses, because a probe for another instance's address takes the address from its owner (RFC 5227, 2.1; RFC 4862,
   5.4.3).
3. It never sends as the metadata service or as the subnet's gateway, even if an allowed address pair contains the address.
4. It never sends as a DHCP server or an IPv6 router. The source port does not matter, because clients check only the
   destination port.
5. Its DHCP messages contain its own MAC (`chaddr`), because a DHCPDECLINE with another MAC would take the address of that
   instance away. It sends no DHCPv6 DECLINE or RELEASE, because a DUID does not authenticate the sender, and no message of a
   DHCPv6 relay agent, which contains the MAC of another client (RFC 6939).
6. It sends only untagged ARP, IPv4 and IPv6 frames. A rule on `ip saddr` also matches inside an 802.1Q tag that the device
   has removed, and a rule on `ether type ip` does not.
7. It sends only packets whose IP header is valid, because rules on ports and ICMP types do not match others.
8. The first fragment of a datagram contains the transport header (RFC 7112), so that the rules can match it. Later
   fragments pass only after such a first fragment, by the table's sets of accepted datagrams.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from openimds.netconfig.addresses import METADATA_IPV4, METADATA_IPV6, link_local
from openimds.resources.network import Port, Subnet

DROP = "counter drop"
LINK_LOCAL = "fe80::/64"
NO_MAC = "00:00:00:00:00:00"
"""A MAC that no frame has as its source."""
EUI64_MASK, EUI64_VALUE = "::ff:ff00:0", "::ff:fe00:0"
"""`ff:fe` in the middle of an interface id marks an address that contains a MAC (EUI-64)."""
CLAIMS = ("icmpv6 type nd-neighbor-advert", "ip6 saddr :: icmpv6 type nd-neighbor-solicit")
"""The messages by which a sender claims their target address."""
HAS_TRANSPORT_HEADER = "@th,0,64 & 0x0 == 0x0"
"""Matches if the packet contains 8 bytes of the transport header, since a rule on a missing field does not match."""
HAS_TRANSPORT_PROTOCOL = "meta l4proto != 255"
"""Matches if the kernel has found the transport protocol: the IP header is valid (version, lengths), and the chain of
extension headers is complete. Rules on ports and ICMP types match no other packet. Some DHCP clients read frames by
themselves and do not check the version and the lengths.
"""
DATAGRAMS_IPV4 = "iifname . ip saddr . ip daddr . ip id"
DATAGRAMS_IPV6 = "iifname . ip6 saddr . ip6 daddr . frag id"
SETS = {"datagrams4": DATAGRAMS_IPV4, "datagrams6": DATAGRAMS_IPV6}
"""The sets of accepted first fragments."""
DATAGRAM_MILLISECONDS, DATAGRAMS = 500, 65536
"""The time during which later fragments of a datagram pass, and the size of each set."""
FIRST_FRAGMENTS = "limit rate 10000/second burst 10000 packets"
"""The limit of each port and rule, so that one instance cannot fill the sets."""
BOOTREQUEST = "@th,64,24 0x10106"
"""op BOOTREQUEST, htype Ethernet, hlen 6 (RFC 2131)."""
DHCPV6_QUESTIONS = "{ 0x1, 0x3, 0x4, 0x5, 0x6, 0xb }"
"""SOLICIT, REQUEST, CONFIRM, RENEW, REBIND and INFORMATION-REQUEST (RFC 8415, 7.3)."""
UNSPECIFIED_TYPES = "{ mld-listener-report, nd-router-solicit, mld2-listener-report }"
"""The other messages that an instance sends from `::` before it has an address (RFC 4862, 5.4)."""

ARP_OF_ETHERNET = (("htype", "1"), ("ptype", "ip"), ("hlen", "6"), ("plen", "4"), ("operation", "{ request, reply }"))
"""The fixed fields of ARP for IPv4 over Ethernet. Other ARP has its sender fields at other offsets."""

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
_COUNTER = re.compile(r"counter packets \d+ bytes \d+")
_CHAIN = re.compile(r"chain (\S+) \{\n(.*?)\n\t\}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFilter:
    """The addresses from which one tap may send."""

    tap: str
    mac_address: str
    sources: tuple[tuple[str, str], ...]
    """The allowed (MAC, CIDR) sources: the fixed IPs, then the allowed address pairs."""
    forbidden: tuple[str, ...]
    """The addresses of the metadata service and the gateways, which are never allowed."""


def port_filter(port: Port, subnets: Iterable[Subnet]) -> PortFilter | None:
    """The filter of a port; None if port security is disabled. `subnets` are all subnets of the port's network.

    A gateway address that is a fixed IP of the port is allowed, for instances that route. Raises ValueError if the port
    is malformed.
    """
    if not port.port_security_enabled:
        return None
    mac = _checked(_MAC, port.mac_address.lower(), "MAC address")
    sources = [(mac, _to_cidr(address)) for address in port.ip_addresses]
    for pair in port.allowed_address_pairs:
        pair_mac = _checked(_MAC, (pair.mac_address or mac).lower(), "MAC address of a pair")
        sources.append((pair_mac, _to_cidr(pair.ip_address)))
    own = {str(ip_address(address)) for address in port.ip_addresses}
    gateways = {str(ip_address(subnet.gateway_ip)) for subnet in subnets if subnet.gateway_ip} - own
    return PortFilter(
        tap=_checked(_DEVICE, port.tap_name, "device name"),
        mac_address=mac,
        sources=tuple(dict.fromkeys(sources)),
        forbidden=(METADATA_IPV4, METADATA_IPV6, *sorted(gateways)),
    )


def closed_filter(port: Port) -> PortFilter:
    """The filter that drops every packet, for a malformed port. Raises ValueError if the device name is malformed."""
    tap = _checked(_DEVICE, port.tap_name, "device name")
    return PortFilter(tap=tap, mac_address=NO_MAC, sources=(), forbidden=(METADATA_IPV4, METADATA_IPV6))


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    """Validates a value again, whatever its source, before it becomes part of the ruleset. Raises ValueError."""
    if not pattern.fullmatch(text):
        raise ValueError(f"port security: {text!r} is not a {what}")
    return text


def _to_cidr(address: str) -> str:
    network = ip_network(address, strict=False)
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def table_text(table: str) -> str:
    """The commands that create the table, its sets and its base chain. Idempotent."""
    return (
        f"add table bridge {table}\n"
        f"add map bridge {table} instances {{ type ifname : verdict; }}\n"
        + "".join(
            f"add set bridge {table} {name} {{ typeof {key}; size {DATAGRAMS}; flags dynamic,timeout;"
            f" timeout {DATAGRAM_MILLISECONDS}ms; }}\n"
            for name, key in SETS.items()
        )
        + f"add chain bridge {table} prerouting {{ type filter hook prerouting priority filter; policy accept; }}\n"
        f"flush chain bridge {table} prerouting\n"
        f"add rule bridge {table} prerouting iifname vmap @instances\n"
    )


def chain_text(table: str, desired: PortFilter) -> str:
    """The commands that replace the chain of one port, for one transaction."""
    chain = f"bridge {table} {desired.tap}"
    rules = "".join(f"add rule {chain} {line}\n" for line in chain_lines(desired))
    element = f'add element bridge {table} instances {{ "{desired.tap}" : jump {desired.tap} }}\n'
    return f"add chain {chain}\nflush chain {chain}\n{rules}{element}"


def removal_text(table: str, tap: str) -> str:
    """The commands that delete the chain of one port. The chain must exist.

    `add element` has no effect if the map element exists, and `delete element` fails if it does not.
    """
    element = f'bridge {table} instances {{ "{tap}" : jump {tap} }}'
    return f"add element {element}\ndelete element {element}\ndelete chain bridge {table} {tap}\n"


def chain_lines(desired: PortFilter) -> tuple[str, ...]:
    """The rules in the format of `nft list`, without counts."""
    macs = sorted({desired.mac_address, *(mac for mac, _ in desired.sources)})
    return (
        f"ether saddr != {_one_or_set(macs)} {DROP}",
        f"ether type != {{ ip, arp, ip6 }} {DROP}",
        *_arp_lines(desired),
        *_ipv4_lines(desired),
        *_ipv6_lines(desired, macs),
        DROP,
    )


def _arp_lines(desired: PortFilter) -> list[str]:
    """The rules for ARP, including probes (sender 0.0.0.0, RFC 5227), which claim the target address."""
    return [
        *(f"arp {field} != {value} {DROP}" for field, value in ARP_OF_ETHERNET),
        f"arp saddr ip {_one_or_set(_of_version(4, desired.forbidden))} {DROP}",
        *(line for mac, addresses in _by_mac(4, desired.sources) for line in _own_arp(mac, addresses)),
        f"ether type arp {DROP}",
    ]


def _ipv4_lines(desired: PortFilter) -> list[str]:
    return [
        f"ip saddr {_one_or_set(_of_version(4, desired.forbidden))} {DROP}",
        f"ip frag-off & 8191 != 0 {HAS_TRANSPORT_PROTOCOL} {DATAGRAMS_IPV4} @datagrams4 accept",
        f"ip frag-off & 8191 != 0 {DROP}",
        f"ether type ip udp dport 68 {DROP}",
        _own_bootrequest(desired.mac_address, "0.0.0.0", "udp sport 68 udp dport 67"),
        *(_own_bootrequest(mac, addresses, "udp dport 67") for mac, addresses in _by_mac(4, desired.sources)),
        f"ether type ip udp dport 67 {DROP}",
        *(line for mac, addresses in _by_mac(4, desired.sources) for line in _own_datagrams(mac, addresses)),
        f"ether type ip {DROP}",
    ]


def _ipv6_lines(desired: PortFilter, macs: Sequence[str]) -> list[str]:
    """The rules for IPv6. A link-local address in EUI-64 format must contain a MAC of the port; others are free (RFC 7217)."""
    sources = dict(_by_mac_lists(6, [*((mac, link_local(mac)) for mac in macs), *desired.sources]))
    targets = _of_version(6, {cidr for cidrs in sources.values() for cidr in cidrs})
    return [
        f"ip6 saddr {_one_or_set(_of_version(6, desired.forbidden))} {DROP}",
        *(
            line
            for mac, own in sources.items()
            for line in (
                f"ether saddr {mac} ip6 saddr != {_one_or_set(_of_version(6, ['::', LINK_LOCAL, *own]))} {DROP}",
                f"ether saddr {mac} ip6 saddr & {EUI64_MASK} == {EUI64_VALUE} ip6 saddr != {_one_or_set(own)} {DROP}",
            )
        ),
        f"exthdr frag exists frag frag-off != 0 {HAS_TRANSPORT_PROTOCOL} {DATAGRAMS_IPV6} @datagrams6 accept",
        f"exthdr frag exists frag frag-off != 0 {DROP}",
        f"icmpv6 type {{ nd-router-advert, nd-redirect }} {DROP}",
        f"ether type ip6 udp dport 546 {DROP}",
        f"ether type ip6 udp dport 547 @th,64,8 != {DHCPV6_QUESTIONS} {DROP}",
        *(line for claim in CLAIMS for line in _claim_lines(claim, desired, targets)),
        f"ip6 saddr :: icmpv6 type {UNSPECIFIED_TYPES} accept",
        f"ip6 saddr :: {DROP}",
        f"exthdr frag missing {HAS_TRANSPORT_PROTOCOL} accept",
        f"exthdr frag exists {HAS_TRANSPORT_PROTOCOL} {HAS_TRANSPORT_HEADER} {FIRST_FRAGMENTS} update @datagrams6 {{ {DATAGRAMS_IPV6} }} accept",
    ]


def _claim_lines(claim: str, desired: PortFilter, targets: Sequence[str]) -> list[str]:
    return [
        *(f"{claim} {_target_in(address)} {DROP}" for address in _of_version(6, desired.forbidden)),
        *(" ".join(filter(None, (claim, _target_in(cidr), "accept"))) for cidr in targets),
        f"{claim} {_target_in(LINK_LOCAL)} @th,152,16 != 0xfffe accept",
        f"{claim} {DROP}",
    ]


def _target_in(cidr: str) -> str:
    """A match on the target address of a neighbour message, at offset 8: `fe80::/64` → `@th,64,64 0xfe80000000000000`.

    Older versions of nft have no keyword for this field.
    """
    network = ip_network(cidr)
    if network.prefixlen == 0:
        return ""
    value = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
    return f"@th,64,{network.prefixlen} {value:#x}"


def _own_arp(mac: str, addresses: str) -> tuple[str, str]:
    """The rules that accept ARP from the port's addresses, and probes for them."""
    sender = f"ether saddr {mac} arp"
    return (
        f"{sender} saddr ether {mac} arp saddr ip {addresses} accept",
        f"{sender} operation request arp saddr ether {mac} arp saddr ip 0.0.0.0 arp daddr ip {addresses} accept",
    )


def _own_datagrams(mac: str, addresses: str) -> tuple[str, str]:
    """The rules that accept complete datagrams and first fragments from the port's addresses."""
    sender = f"ether saddr {mac} ip saddr {addresses}"
    record = f"{FIRST_FRAGMENTS} update @datagrams4 {{ {DATAGRAMS_IPV4} }}"
    return (
        f"ip frag-off & 16383 == 0 {sender} {HAS_TRANSPORT_PROTOCOL} accept",
        f"ip frag-off & 16383 == 8192 {sender} {HAS_TRANSPORT_PROTOCOL} {HAS_TRANSPORT_HEADER} {record} accept",
    )


def _own_bootrequest(mac_address: str, sources: str, ports: str) -> str:
    """The rule that accepts a complete message to a DHCP server with this MAC as `chaddr`."""
    sender = f"ether saddr {mac_address} ip saddr {sources} ip frag-off & 16383 == 0"
    return f"{sender} {ports} {BOOTREQUEST} @th,288,48 {_number(mac_address)} accept"


def _number(mac_address: str) -> str:
    """`fa:16:3e:00:00:01` → `0xfa163e000001`."""
    return f"{int(mac_address.replace(':', ''), 16):#x}"


def _of_version(version: int, addresses: Iterable[str]) -> list[str]:
    matching = {address for address in addresses if ip_network(address).version == version}
    return sorted(matching, key=lambda address: (int(ip_network(address).network_address), address))


def _by_mac(version: int, sources: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The addresses of each MAC: `192.168.40.5` or `{ 192.168.40.5, 10.0.0.0/24 }`."""
    return [(mac, _one_or_set(addresses)) for mac, addresses in _by_mac_lists(version, sources)]


def _by_mac_lists(version: int, sources: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    grouped: dict[str, list[str]] = {}
    for mac, cidr in sources:
        grouped.setdefault(mac, []).append(cidr)
    by_mac = [(mac, _of_version(version, addresses)) for mac, addresses in sorted(grouped.items())]
    return [(mac, addresses) for mac, addresses in by_mac if addresses]


def _one_or_set(items: Sequence[str]) -> str:
    """A single item, or a set without ranges that another range contains, because nft merges overlapping ranges."""
    networks = [item for item in items if not any(_lies_in(item, other) for other in items)]
    return networks[0] if len(networks) == 1 else "{ " + ", ".join(networks) + " }"


def _lies_in(item: str, other: str) -> bool:
    if item == other or _MAC.fullmatch(item):
        return False
    inner, outer = ip_network(item), ip_network(other)
    return (
        inner.version == outer.version
        and int(outer.network_address) <= int(inner.network_address)
        and int(inner.broadcast_address) <= int(outer.broadcast_address)
    )


def chains_in(listing: str) -> dict[str, tuple[str, ...]]:
    """Parses the output of `nft list table` into chains, in the format of `chain_lines`."""
    chains = {}
    for name, body in _CHAIN.findall(listing + "\n"):
        chains[name] = tuple(_COUNTER.sub("counter", line.strip()) for line in body.splitlines() if line.strip())
    return chains
