"""What this system says to the kernel about IP addresses: rtnetlink(7).

Every function speaks to the namespace of the thread that calls it; `ADDRESSES` can be asked of a `Conversation` too.

Who has which IP address on a link, as the kernel has heard it: rtnetlink(7).

Every function speaks to the namespace of the thread that calls it.
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
    """`192.168.40.2/24`"""
    permanent: bool
    """Not one that the kernel made from a router's advertisement."""
    tentative: bool = False
    """IPv6: whether it is somebody else's is not known yet (also after `duplicate`)."""
    duplicate: bool = False
    """IPv6: duplicate address detection has found it elsewhere (RFC 4862, 5.4)."""


ADDRESS_DUMP = Dump(RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0))


def all_addresses() -> list[Address]:
    return [parse_address(payload) for _kind, payload in request(ADDRESS_DUMP.kind, NLM_F_DUMP, ADDRESS_DUMP.body)]


def parse_addresses(dump: bytes) -> tuple[Address, ...]:
    """Of what `ADDRESSES` was answered with."""
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
    """Idempotent. `detect_duplicates`: IPv6 only; without it the address can be used at once."""
    wanted = ip_interface(interface)
    body = _address_body(link_index, wanted)
    if wanted.version == 4 and wanted.network.prefixlen < 31:  # RFC 3021: no broadcast there
        body += pack_attribute(IFA_BROADCAST, wanted.network.broadcast_address.packed)
    if wanted.version == 6 and not detect_duplicates:
        body += pack_u32(IFA_FLAGS, IFA_F_NODAD)
    try:
        request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def delete_address(link_index: int, interface: str) -> None:
    """Idempotent."""
    delete_if_exists(RTM_DELADDR, _address_body(link_index, ip_interface(interface)))


def _address_body(link_index: int, wanted: IPv4Interface | IPv6Interface) -> bytes:
    head = _IFADDRMSG.pack(FAMILIES[wanted.version == 6], wanted.network.prefixlen, 0, RT_SCOPE_UNIVERSE, link_index)
    return head + pack_attribute(IFA_LOCAL, wanted.ip.packed) + pack_attribute(IFA_ADDRESS, wanted.ip.packed)


RTM_GETNEIGH = 30
NDA_DST, NDA_LLADDR = 1, 2
UNCONFIRMED_STATES = 0x01 | 0x20 | 0x40
"""NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP: no address that anybody has confirmed."""

_NDMSG = struct.Struct("=BBHiHBB")
"""struct ndmsg: family, padding (2), index, state, flags, type."""


def neighbours(link_index: int) -> dict[str, str]:
    """IP address → MAC address, of those that have answered."""
    found: dict[str, str] = {}
    for family in FAMILIES:
        for _kind, payload in request(RTM_GETNEIGH, NLM_F_DUMP, _NDMSG.pack(family, 0, 0, 0, 0, 0, 0)):
            its_family, _pad, _pad2, index, state, _flags, _type = _NDMSG.unpack_from(payload)
            values = parse_attributes(payload, _NDMSG.size)
            is_known = bool(values.get(NDA_LLADDR)) and not state & UNCONFIRMED_STATES
            if is_known and index == link_index and its_family == family:
                found[format_address(values[NDA_DST])] = values[NDA_LLADDR].hex(":")
    return found
