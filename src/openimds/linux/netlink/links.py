"""Links (network devices): rtnetlink(7).

Every function works in the network namespace of the calling thread. `LINK_DUMP` can also be sent on a `NetlinkSocket`,
which works in the namespace that it was opened in.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from openimds.linux.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NOT_FOUND_ERRNOS,
    Dump,
    delete_if_exists,
    pack_attribute,
    pack_nested,
    pack_string,
    pack_u32,
    parse_attributes,
    parse_messages,
    parse_string,
    parse_u32,
    request,
)
from openimds.linux.netns import netns

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 27, 28, 29, 37
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 1, 5, 23
VETH_INFO_PEER = 1
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFF_UP = 0x1

_IFINFOMSG = struct.Struct("=BBHiII")
"""struct ifinfomsg: family, padding, type, index, flags, mask of the flags to change."""


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
    """The index of a veth's other end, in the namespace of that end."""
    peer_elsewhere: bool
    """True if the other end is in another namespace."""


def all_links() -> list[Link]:
    return _dump_links()


def has_ports(master_index: int) -> bool:
    """True if a bridge has ports. True also if the list changes too fast to be read completely."""
    try:
        return any(link.master_index == master_index for link in _dump_links(pack_u32(IFLA_MASTER, master_index)))
    except BlockingIOError:
        return True


def _dump_links(link_filter: bytes = b"") -> list[Link]:
    """Lists the links of this namespace. Kernels before 4.20 ignore the filter."""
    return [parse_link(payload) for _kind, payload in request(RTM_GETLINK, NLM_F_DUMP, LINK_DUMP.body + link_filter)]


def parse_links(dump: bytes) -> tuple[Link, ...]:
    """Parses the response to `LINK_DUMP`."""
    return tuple(parse_link(payload) for _kind, _flags, payload in parse_messages(dump))


def link_by_name(name: str) -> Link | None:
    return _get_link(_link_body() + pack_string(IFLA_IFNAME, name))


def link_by_index(index: int) -> Link | None:
    return _get_link(_link_body(index))


def host_end(link: Link) -> Link | None:
    """Returns the other end of a veth pair if that end is in the root namespace. Must be called in the root namespace.

    Indexes are unique only within a namespace, so the link found must also point back to this one.
    """
    if link.peer_index is None or not link.peer_elsewhere:
        return None
    host = link_by_index(link.peer_index)
    return host if host is not None and host.kind == "veth" and host.peer_index == link.index else None


def _get_link(body: bytes) -> Link | None:
    try:
        found = request(RTM_GETLINK, 0, body + pack_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))
    except OSError as error:
        if error.errno in NOT_FOUND_ERRNOS:
            return None
        raise
    return parse_link(found[0][1]) if found else None


def parse_link(payload: bytes) -> Link:
    """Parses an RTM_NEWLINK or RTM_DELLINK message."""
    _family, _pad, _type, index, flags, _change = _IFINFOMSG.unpack_from(payload)
    found = parse_attributes(payload, _IFINFOMSG.size)
    kind = parse_string(parse_attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND)) or None
    return Link(
        name=parse_string(found.get(IFLA_IFNAME)),
        index=index,
        kind=kind,
        mac_address=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=parse_u32(found.get(IFLA_MTU)) or 0,
        up=bool(flags & IFF_UP),
        master_index=parse_u32(found.get(IFLA_MASTER)),
        peer_index=parse_u32(found.get(IFLA_LINK)) if kind == "veth" else None,
        peer_elsewhere=IFLA_LINK_NETNSID in found,
    )


def _link_body(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, index, flags, change)


LINK_DUMP = Dump(RTM_GETLINK, _link_body() + pack_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))


def add_bridge(name: str, mtu: int) -> None:
    """Adds a bridge without spanning tree, forward delay and multicast snooping.

    A new port forwards immediately. Snooping is off because the network has no multicast querier.
    """
    settings = {
        IFLA_BR_STP_STATE: struct.pack("=I", 0),
        IFLA_BR_FORWARD_DELAY: struct.pack("=I", 0),
        IFLA_BR_MCAST_SNOOPING: b"\0",
    }
    information = pack_string(IFLA_INFO_KIND, "bridge") + pack_nested(IFLA_INFO_DATA, settings)
    body = (
        _link_body()
        + pack_string(IFLA_IFNAME, name)
        + pack_u32(IFLA_MTU, mtu)
        + pack_attribute(IFLA_LINKINFO, information)
    )
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def add_veth(*, host_name: str, mtu: int, inner_name: str, inner_mac: str, inner_namespace: str) -> None:
    """Adds a veth pair: the host's end in this namespace, and the inner end in `inner_namespace`.

    The kernel creates each end in its namespace, so both ends may have the same name.
    """
    descriptor = os.open(netns.namespace_path(inner_namespace), os.O_RDONLY | os.O_CLOEXEC)
    inner = pack_string(IFLA_IFNAME, inner_name) + pack_u32(IFLA_MTU, mtu) + pack_u32(IFLA_NET_NS_FD, descriptor)
    peer = _link_body() + inner + pack_attribute(IFLA_ADDRESS, _mac_bytes(inner_mac))
    information = pack_string(IFLA_INFO_KIND, "veth") + pack_nested(IFLA_INFO_DATA, {VETH_INFO_PEER: peer})
    body = (
        _link_body()
        + pack_string(IFLA_IFNAME, host_name)
        + pack_u32(IFLA_MTU, mtu)
        + pack_attribute(IFLA_LINKINFO, information)
    )
    try:
        request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)
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
    """Changes the given properties of a link. A property that is None stays as it is."""
    body = _link_body(index) if up is None else _link_body(index, IFF_UP if up else 0, IFF_UP)
    body += pack_u32(IFLA_MTU, mtu) if mtu is not None else b""
    body += pack_attribute(IFLA_ADDRESS, _mac_bytes(mac_address)) if mac_address is not None else b""
    body += pack_u32(IFLA_MASTER, master_index) if master_index is not None else b""
    request(RTM_NEWLINK, 0, body)


def delete_link(index: int) -> None:
    """Deletes a link. Idempotent."""
    delete_if_exists(RTM_DELLINK, _link_body(index))


def delete_links(names: Iterable[str]) -> set[str]:
    """Deletes links and returns the names of the existing ones.

    The links are put into one device group, which one request deletes. Each request waits once for all CPUs (RCU), so one
    request for a thousand links takes as long as one for a few. Deleting either end of a veth pair deletes both.
    """
    group = secrets.randbits(31) | 1 << 30  # A random group; 0 is the default group of all devices.
    there = {link.name: link.index for link in map(link_by_name, names) if link is not None}
    for index in there.values():
        delete_if_exists(RTM_NEWLINK, _link_body(index) + pack_u32(IFLA_GROUP, group))
    if there:
        delete_if_exists(RTM_DELLINK, _link_body() + pack_u32(IFLA_GROUP, group))
    return set(there)


def _mac_bytes(mac_address: str) -> bytes:
    return bytes.fromhex(mac_address.replace(":", ""))
