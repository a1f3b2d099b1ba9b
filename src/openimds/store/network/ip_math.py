"""Arithmetic on addresses: pure functions on text and `ipaddress` values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Net = IPv4Network | IPv6Network

INTERFACE_ID_BITS = 64
UNIVERSAL_LOCAL_BIT = 0x02
"""RFC 4291, 2.5.1: inverted when an interface identifier is made from a MAC."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A range of addresses as numbers, both ends included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def overlaps(self, other: Span) -> bool:
        return self.first <= other.last and other.first <= self.last

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last


def number(address: str) -> int:
    """`10.0.0.1` → 167772161."""
    return int(ip_address(address))


def text(value: int, ip_version: int) -> str:
    """The inverse of `number`: the address in canonical form."""
    net = ip_network((value, 32)) if ip_version == 4 else ip_network((value, 128))
    return str(net.network_address)


@lru_cache(maxsize=8192)
def network(cidr: str) -> Net:
    """The parsed CIDR. A network's subnets are compared with each address of a request, so that they are parsed once."""
    return ip_network(cidr)


@lru_cache(maxsize=8192)
def span(cidr: str) -> Span:
    """All addresses of the CIDR."""
    net = network(cidr)
    return Span(int(net.network_address), int(net.broadcast_address))


def holds(cidr: str, address: IPv4Address | IPv6Address) -> bool:
    """Whether the address is in the CIDR."""
    return network(cidr).version == address.version and int(address) in span(cidr)


def usable(net: Net) -> Span:
    """The host addresses: all but the network address and IPv4's broadcast address (a /31 has neither, RFC 3021)."""
    first, last = int(net.network_address), int(net.broadcast_address)
    if net.num_addresses <= 2:
        return Span(first, last)
    return Span(first + 1, last - 1 if net.version == 4 else last)


def default_gateway(net: Net) -> str:
    """The first usable address."""
    return text(usable(net).first, net.version)


def default_pools(net: Net, gateway: str | None) -> list[Span]:
    """All usable addresses but the gateway's, as one or two spans."""
    return without(usable(net), number(gateway)) if gateway else [usable(net)]


def without(span: Span, hole: int) -> list[Span]:
    """The span without one address."""
    if hole not in span:
        return [span]
    parts = [Span(span.first, hole - 1), Span(hole + 1, span.last)]
    return [part for part in parts if part.size > 0]


def eui64_address(net: Net, mac_address: str) -> str:
    """The SLAAC address of a device (RFC 4291, appendix A).

    `2001:db8::/64`, `fa:16:3e:00:00:01` → `2001:db8::f816:3eff:fe00:1`
    """
    octets = bytes.fromhex(mac_address.replace(":", ""))
    identifier = bytes([octets[0] ^ UNIVERSAL_LOCAL_BIT]) + octets[1:3] + b"\xff\xfe" + octets[3:6]
    return str(IPv6Address(int(net.network_address) | int.from_bytes(identifier)))


def first_overlap(net: Net, others: Iterable[str]) -> str | None:
    """The first of `others` (CIDRs) that shares addresses with `net`."""
    own = Span(int(net.network_address), int(net.broadcast_address))
    for other in others:
        if network(other).version == net.version and span(other).overlaps(own):
            return other
    return None


def total(spans: Sequence[Span]) -> int:
    """The number of addresses in spans that do not overlap."""
    return sum(span.size for span in spans)
