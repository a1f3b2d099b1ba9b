"""What this system says to the kernel about links, addresses and routes.

Every function speaks to the namespace of the thread that calls it; a `Dump` can be asked of a `Conversation` too.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

from openimds.linux import netns
from openimds.linux.rtnetlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    as_number,
    as_text,
    ask,
    attribute,
    attributes,
    messages,
    nested,
    number,
    text,
)
from openimds.wiring.state import Route

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_GETNEIGH = 30
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 27, 28, 29, 37
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 1, 5, 23
VETH_INFO_PEER = 1
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
NDA_DST, NDA_LLADDR = 1, 2
IFF_UP = 0x1
IFA_F_NODAD = 0x02
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40
IFA_F_PERMANENT = 0x80
ROUTE_TABLE_MAIN = 254
ROUTE_UNICAST = 1
ROUTE_PROTO_KERNEL = 2
ROUTE_PROTO_STATIC = 4
ROUTE_PROTO_RA = 9
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_ANY = 0, 253, 255
NEIGHBOUR_USELESS = 0x01 | 0x20 | 0x40
"""NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP: no address that anybody has confirmed."""
GONE = frozenset({errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENOENT})
FAMILIES = (socket.AF_INET, socket.AF_INET6)

_LINK = struct.Struct("=BBHiII")
"""struct ifinfomsg: family, padding, type, index, flags, which flags to change."""
_ADDRESS = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination's and source's prefix length, tos, table, protocol, scope, type, flags."""
_NEIGHBOUR = struct.Struct("=BBHiHBB")
"""struct ndmsg: family, padding (2), index, state, flags, type."""


@dataclass(frozen=True, slots=True)
class Dump:
    """A request for a list."""

    kind: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    name: str
    index: int
    kind: str | None
    """`veth`, `bridge` …"""
    mac_address: str
    mtu: int
    up: bool
    master_index: int | None
    peer_index: int | None
    """A veth's other end, in its namespace."""
    peer_elsewhere: bool
    """The other end is in another namespace than this one."""


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


# Links ------------------------------------------------------------------------------------------------------------


def all_links() -> list[Link]:
    return _links()


def has_ports(master_index: int) -> bool:
    """Whether anything is plugged into a bridge; also said when links come and go so fast that nobody can tell."""
    try:
        return any(link.master_index == master_index for link in _links(number(IFLA_MASTER, master_index)))
    except BlockingIOError:
        return True


def _links(only: bytes = b"") -> list[Link]:
    """A kernel before 4.20 does not heed `only`."""
    return [link_value(payload) for _kind, payload in ask(RTM_GETLINK, NLM_F_DUMP, LINKS.body + only)]


def links_in(dump: bytes) -> tuple[Link, ...]:
    """Of what `LINKS` was answered with."""
    return tuple(link_value(payload) for _kind, _flags, payload in messages(dump))


def link_named(name: str) -> Link | None:
    return _one_link(_link_body() + text(IFLA_IFNAME, name))


def link_at(index: int) -> Link | None:
    return _one_link(_link_body(index))


def host_end(link: Link) -> Link | None:
    """The other end of a pair, if it is in the root namespace, by a thread there; indexes may repeat, so it must also
    point back.
    """
    if link.peer_index is None or not link.peer_elsewhere:
        return None
    host = link_at(link.peer_index)
    return host if host is not None and host.kind == "veth" and host.peer_index == link.index else None


def _one_link(body: bytes) -> Link | None:
    try:
        found = ask(RTM_GETLINK, 0, body + number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    return link_value(found[0][1]) if found else None


def link_value(payload: bytes) -> Link:
    """Of an RTM_NEWLINK or RTM_DELLINK message."""
    _family, _pad, _type, index, flags, _change = _LINK.unpack_from(payload)
    found = attributes(payload, _LINK.size)
    kind = as_text(attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND)) or None
    return Link(
        name=as_text(found.get(IFLA_IFNAME)),
        index=index,
        kind=kind,
        mac_address=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=as_number(found.get(IFLA_MTU)) or 0,
        up=bool(flags & IFF_UP),
        master_index=as_number(found.get(IFLA_MASTER)),
        peer_index=as_number(found.get(IFLA_LINK)) if kind == "veth" else None,
        peer_elsewhere=IFLA_LINK_NETNSID in found,
    )


def _link_body(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, 0, index, flags, change)


LINKS = Dump(RTM_GETLINK, _link_body() + number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))


def add_bridge(name: str, mtu: int) -> None:
    """No spanning tree, no forward delay (a new port carries at once), no multicast snooping (nobody queries)."""
    settings = {
        IFLA_BR_STP_STATE: struct.pack("=I", 0),
        IFLA_BR_FORWARD_DELAY: struct.pack("=I", 0),
        IFLA_BR_MCAST_SNOOPING: b"\0",
    }
    information = text(IFLA_INFO_KIND, "bridge") + nested(IFLA_INFO_DATA, settings)
    body = _link_body() + text(IFLA_IFNAME, name) + number(IFLA_MTU, mtu) + attribute(IFLA_LINKINFO, information)
    ask(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def add_veth(*, host_name: str, mtu: int, inner_name: str, inner_mac: str, inner_namespace: str) -> None:
    """The host's end here, the other end directly in its namespace, so that both may have one name."""
    descriptor = os.open(netns.namespace_path(inner_namespace), os.O_RDONLY | os.O_CLOEXEC)
    inner = text(IFLA_IFNAME, inner_name) + number(IFLA_MTU, mtu) + number(IFLA_NET_NS_FD, descriptor)
    peer = _link_body() + inner + attribute(IFLA_ADDRESS, _mac_bytes(inner_mac))
    information = text(IFLA_INFO_KIND, "veth") + nested(IFLA_INFO_DATA, {VETH_INFO_PEER: peer})
    body = _link_body() + text(IFLA_IFNAME, host_name) + number(IFLA_MTU, mtu) + attribute(IFLA_LINKINFO, information)
    try:
        ask(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)
    finally:
        os.close(descriptor)


def set_link(
    index: int,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    mac_address: str | None = None,
    master_index: int | None = None,
) -> None:
    """What is None stays."""
    body = _link_body(index) if up is None else _link_body(index, IFF_UP if up else 0, IFF_UP)
    body += number(IFLA_MTU, mtu) if mtu is not None else b""
    body += attribute(IFLA_ADDRESS, _mac_bytes(mac_address)) if mac_address is not None else b""
    body += number(IFLA_MASTER, master_index) if master_index is not None else b""
    ask(RTM_NEWLINK, 0, body)


def delete_link(index: int) -> None:
    """Idempotent."""
    _gone_is_fine(RTM_DELLINK, _link_body(index))


def delete_links(names: Iterable[str]) -> set[str]:
    """The names of those that were there. All at once, as one group of devices: a thousand cost what a few do, while one
    after the other waits for every processor each time. Either end of a pair takes both.
    """
    group = secrets.randbits(31) | 1 << 30  # nobody else's, and not 0, which all devices belong to
    there = {link.name: link.index for link in map(link_named, names) if link is not None}
    for index in there.values():
        _gone_is_fine(RTM_NEWLINK, _link_body(index) + number(IFLA_GROUP, group))
    if there:
        _gone_is_fine(RTM_DELLINK, _link_body() + number(IFLA_GROUP, group))
    return set(there)


def _mac_bytes(mac_address: str) -> bytes:
    return bytes.fromhex(mac_address.replace(":", ""))


# Addresses --------------------------------------------------------------------------------------------------------


ADDRESSES = Dump(RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0))


def addresses() -> list[Address]:
    return [_address_value(payload) for _kind, payload in ask(ADDRESSES.kind, NLM_F_DUMP, ADDRESSES.body)]


def addresses_in(dump: bytes) -> tuple[Address, ...]:
    """Of what `ADDRESSES` was answered with."""
    return tuple(_address_value(payload) for _kind, _flags, payload in messages(dump))


def _address_value(payload: bytes) -> Address:
    _family, prefix_length, flags, _scope, index = _ADDRESS.unpack_from(payload)
    found = attributes(payload, _ADDRESS.size)
    address = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    flags = as_number(found.get(IFA_FLAGS)) or flags
    return Address(
        link_index=index,
        interface=f"{_spelled(address)}/{prefix_length}",
        permanent=bool(flags & IFA_F_PERMANENT),
        tentative=bool(flags & IFA_F_TENTATIVE),
        duplicate=bool(flags & IFA_F_DADFAILED),
    )


def add_address(link_index: int, interface: str, *, detect_duplicates: bool = False) -> None:
    """Idempotent. `detect_duplicates`: IPv6 only; without it the address can be used at once."""
    wanted = ip_interface(interface)
    body = _address_body(link_index, wanted)
    if wanted.version == 4 and wanted.network.prefixlen < 31:  # RFC 3021: no broadcast there
        body += attribute(IFA_BROADCAST, wanted.network.broadcast_address.packed)
    if wanted.version == 6 and not detect_duplicates:
        body += number(IFA_FLAGS, IFA_F_NODAD)
    try:
        ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def delete_address(link_index: int, interface: str) -> None:
    """Idempotent."""
    _gone_is_fine(RTM_DELADDR, _address_body(link_index, ip_interface(interface)))


def _address_body(link_index: int, wanted: IPv4Interface | IPv6Interface) -> bytes:
    head = _ADDRESS.pack(FAMILIES[wanted.version == 6], wanted.network.prefixlen, 0, SCOPE_UNIVERSE, link_index)
    return head + attribute(IFA_LOCAL, wanted.ip.packed) + attribute(IFA_ADDRESS, wanted.ip.packed)


def _spelled(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


# Routes -----------------------------------------------------------------------------------------------------------


MAIN_TABLES = {
    family: Dump(RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, ROUTE_TABLE_MAIN, 0, 0, 0, 0)) for family in FAMILIES
}
NO_TABLE = frozenset({errno.ENOENT, errno.EOPNOTSUPP})
"""Also where the kernel has not made the table yet."""


def routes_in(dump: bytes, family: int, names: Mapping[int, str]) -> frozenset[Route]:
    """The main table's unicast routes that somebody set: not the kernel's own nor a router advertisement's. `names`:
    of devices, by index.
    """
    found = (_route_value(payload, family, names) for _kind, _flags, payload in messages(dump))
    return frozenset(route for route in found if route is not None)


def _route_value(payload: bytes, family: int, names: Mapping[int, str]) -> Route | None:
    its_family, length, _source, _tos, table, protocol, _scope, kind, _flags = _ROUTE.unpack_from(payload)
    if (its_family, kind) != (family, ROUTE_UNICAST) or protocol in (ROUTE_PROTO_KERNEL, ROUTE_PROTO_RA):
        return None
    found = attributes(payload, _ROUTE.size)
    device = names.get(as_number(found.get(RTA_OIF)) or 0)
    if device is None or (as_number(found.get(RTA_TABLE)) or table) != ROUTE_TABLE_MAIN:
        return None
    anywhere = bytes(4) if family == socket.AF_INET else bytes(16)
    gateway = found.get(RTA_GATEWAY)
    return Route(f"{_spelled(found.get(RTA_DST, anywhere))}/{length}", _spelled(gateway) if gateway else None, device)


def put_route(route: Route, link_index: int) -> None:
    """Adds it, or lets it take the place of the one to the same destination."""
    scope = SCOPE_LINK if route.gateway is None and ":" not in route.destination else SCOPE_UNIVERSE
    ask(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _route_body(route, link_index, ROUTE_PROTO_STATIC, scope))


def delete_route(route: Route, link_index: int) -> None:
    """Idempotent."""
    scope = SCOPE_UNIVERSE if ":" in route.destination else SCOPE_ANY
    _gone_is_fine(RTM_DELROUTE, _route_body(route, link_index, 0, scope))


def _route_body(route: Route, link_index: int, protocol: int, scope: int) -> bytes:
    to = ip_network(route.destination)
    family = FAMILIES[to.version == 6]
    kind = ROUTE_UNICAST if protocol else 0
    body = _ROUTE.pack(family, to.prefixlen, 0, 0, ROUTE_TABLE_MAIN, protocol, scope, kind, 0)
    body += attribute(RTA_DST, to.network_address.packed) if to.prefixlen else b""
    body += attribute(RTA_GATEWAY, ip_address(route.gateway).packed) if route.gateway is not None else b""
    return body + number(RTA_OIF, link_index)


# Neighbours -------------------------------------------------------------------------------------------------------


def neighbours(link_index: int) -> dict[str, str]:
    """IP address → MAC address, of those that have answered."""
    found: dict[str, str] = {}
    for family in FAMILIES:
        for _kind, payload in ask(RTM_GETNEIGH, NLM_F_DUMP, _NEIGHBOUR.pack(family, 0, 0, 0, 0, 0, 0)):
            its_family, _pad, _pad2, index, state, _flags, _type = _NEIGHBOUR.unpack_from(payload)
            values = attributes(payload, _NEIGHBOUR.size)
            is_known = bool(values.get(NDA_LLADDR)) and not state & NEIGHBOUR_USELESS
            if is_known and index == link_index and its_family == family:
                found[_spelled(values[NDA_DST])] = values[NDA_LLADDR].hex(":")
    return found


def _gone_is_fine(kind: int, body: bytes) -> None:
    try:
        ask(kind, 0, body)
    except OSError as error:
        if error.errno not in GONE:
            raise
