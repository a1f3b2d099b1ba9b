"""IP addresses of links (RTM_*ADDR) and their neighbours (RTM_GETNEIGH): rtnetlink(7).

Every function works in the network namespace of the calling thread. `ADDRESS_DUMP` can also be sent on a
`NetlinkSocket`, which works in the namespace that it was opened in.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from openimds.linux.netlink.socket import (
    FAMILIES,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Dump,
    delete_if_exists,
    format_address,
    pack_attribute,
    pack_u32,
    parse_attributes,
    parse_messages,
    parse_u32,
    request,
)

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40
IFA_F_PERMANENT = 0x80
RT_SCOPE_UNIVERSE = 0

_IFADDRMSG = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""


@dataclass(frozen=True, slots=True)
class Address:
    link_index: int
    interface: str
    """Address and prefix length: `192.168.40.2/24`."""
    permanent: bool
    """False if the kernel configured the address from a router advertisement."""
    tentative: bool = False
    """IPv6 only: duplicate address detection has not finished, or has failed."""
    duplicate: bool = False
    """IPv6 only: duplicate address detection has found the address on another host (RFC 4862, 5.4)."""


ADDRESS_DUMP = Dump(RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0))


def all_addresses() -> list[Address]:
    return [parse_address(payload) for _kind, payload in request(ADDRESS_DUMP.kind, NLM_F_DUMP, ADDRESS_DUMP.body)]


def parse_addresses(dump: bytes) -> tuple[Address, ...]:
    """Parses the response to `ADDRESS_DUMP`."""
    return tuple(parse_address(payload) for _kind, _flags, payload in parse_messages(dump))


def parse_address(payload: bytes) -> Address:
    _family, prefix_length, flags, _scope, index = _IFADDRMSG.unpack_from(payload)
    found = parse_attributes(payload, _IFADDRMSG.size)
    address = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    flags = parse_u32(found.get(IFA_FLAGS)) or flags
    return Address(
        link_index=index,
        interface=f"{format_address(address)}/{prefix_length}",
        permanent=bool(flags & IFA_F_PERMANENT),
        tentative=bool(flags & IFA_F_TENTATIVE),
        duplicate=bool(flags & IFA_F_DADFAILED),
    )


def add_address(link_index: int, interface: str, *, detect_duplicates: bool = False) -> None:
    """Adds an address. Idempotent.

    `detect_duplicates` applies to IPv6 only. Without it the address is usable immediately.
    """
    desired = ip_interface(interface)
    body = _address_body(link_index, desired)
    if desired.version == 4 and desired.network.prefixlen < 31:  # RFC 3021: no broadcast there
        body += pack_attribute(IFA_BROADCAST, desired.network.broadcast_address.packed)
    if desired.version == 6 and not detect_duplicates:
        body += pack_u32(IFA_FLAGS, IFA_F_NODAD)
    try:
        request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def delete_address(link_index: int, interface: str) -> None:
    """Removes an address. Idempotent."""
    delete_if_exists(RTM_DELADDR, _address_body(link_index, ip_interface(interface)))


def _address_body(link_index: int, desired: IPv4Interface | IPv6Interface) -> bytes:
    head = _IFADDRMSG.pack(FAMILIES[desired.version == 6], desired.network.prefixlen, 0, RT_SCOPE_UNIVERSE, link_index)
    return head + pack_attribute(IFA_LOCAL, desired.ip.packed) + pack_attribute(IFA_ADDRESS, desired.ip.packed)


RTM_GETNEIGH = 30
NDA_DST, NDA_LLADDR = 1, 2
UNCONFIRMED_STATES = 0x01 | 0x20 | 0x40
"""NUD_INCOMPLETE, NUD_FAILED and NUD_NOARP: states in which no reply has confirmed the MAC address."""

_NDMSG = struct.Struct("=BBHiHBB")
"""struct ndmsg: family, padding (2), index, state, flags, type."""


def neighbours(link_index: int) -> dict[str, str]:
    """Returns the confirmed entries of the link's neighbour table, as IP address → MAC address."""
    found: dict[str, str] = {}
    for family in FAMILIES:
        for _kind, payload in request(RTM_GETNEIGH, NLM_F_DUMP, _NDMSG.pack(family, 0, 0, 0, 0, 0, 0)):
            its_family, _pad, _pad2, index, state, _flags, _type = _NDMSG.unpack_from(payload)
            values = parse_attributes(payload, _NDMSG.size)
            is_known = bool(values.get(NDA_LLADDR)) and not state & UNCONFIRMED_STATES
            if is_known and index == link_index and its_family == family:
                found[format_address(values[NDA_DST])] = values[NDA_LLADDR].hex(":")
    return found
