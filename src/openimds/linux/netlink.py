"""What this system says over netlink, in its own words. The only file that imports pyroute2.

Every function speaks to the namespace of the thread that calls it (pyroute2 opens a socket a thread).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from openimds.linux import netns
from openimds.wiring.state import Route

IFF_UP = 0x1
IFA_F_NODAD = 0x02
IFA_F_TENTATIVE = 0x40
IFA_F_PERMANENT = 0x80
ROUTE_TABLE_MAIN = 254
ROUTE_UNICAST = 1
ROUTE_PROTO_KERNEL = 2
ROUTE_PROTO_RA = 9
SCOPE_LINK = 253
NEIGHBOUR_USELESS = 0x01 | 0x20 | 0x40
"""NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP: no address that anybody has confirmed."""
GONE = frozenset({errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENOENT})
FAMILIES = (socket.AF_INET, socket.AF_INET6)


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


@contextmanager
def _netlink() -> Iterator[Any]:
    with IPRoute() as route:
        yield route


def _call(*arguments: Any, method: str, **keywords: Any) -> list[Any]:
    """One request; netlink's errors become OSError, as from any other part of the kernel."""
    with _netlink() as route:
        try:
            return list(getattr(route, method)(*arguments, **keywords))
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error


def _link_value(message: Any) -> Link:
    details = message.get_attr("IFLA_LINKINFO")
    kind = details.get_attr("IFLA_INFO_KIND") if details is not None else None
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        kind=kind,
        mac_address=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & IFF_UP),
        master_index=message.get_attr("IFLA_MASTER"),
        peer_index=message.get_attr("IFLA_LINK") if kind == "veth" else None,
        peer_elsewhere=message.get_attr("IFLA_LINK_NETNSID") is not None,
    )


def all_links() -> list[Link]:
    return [_link_value(message) for message in _call(method="get_links")]


def link_named(name: str) -> Link | None:
    return _one_link(ifname=name)


def link_at(index: int) -> Link | None:
    return _one_link(index=index)


def _one_link(**which: Any) -> Link | None:
    try:
        found = _call("get", method="link", **which)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    return _link_value(found[0]) if found else None


def add_bridge(name: str, mtu: int) -> None:
    """No spanning tree, no forward delay (a new port carries at once), no multicast snooping (nobody queries)."""
    _call(
        "add",
        method="link",
        kind="bridge",
        ifname=name,
        mtu=mtu,
        br_stp_state=0,
        br_forward_delay=0,
        br_mcast_snooping=0,
    )


def add_veth(*, host_name: str, mtu: int, inner_name: str, inner_mac: str, inner_namespace: str) -> None:
    """The host's end here, the other end directly in its namespace, so that both may have one name."""
    descriptor = os.open(netns.namespace_path(inner_namespace), os.O_RDONLY | os.O_CLOEXEC)
    peer = {"ifname": inner_name, "address": inner_mac, "mtu": mtu, "net_ns_fd": descriptor}
    try:
        _call("add", method="link", kind="veth", ifname=host_name, mtu=mtu, peer=peer)
    finally:
        os.close(descriptor)


def set_link(index: int, **what: Any) -> None:
    """`state="up"`, `mtu=1442`, `address="fa:…"`, `master=7`."""
    _call("set", method="link", index=index, **what)


def delete_link(index: int) -> None:
    """Idempotent."""
    _call_gone_is_fine("del", method="link", index=index)


def addresses() -> list[Address]:
    return [_address_value(message) for message in _call(method="get_addr")]


def _address_value(message: Any) -> Address:
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return Address(
        link_index=message["index"],
        interface=f"{address}/{message['prefixlen']}",
        permanent=bool(flags & IFA_F_PERMANENT),
    )


def add_address(link_index: int, interface: str, *, detect_duplicates: bool = False) -> None:
    """Idempotent. `detect_duplicates`: IPv6 only; without it the address can be used at once."""
    wanted = ip_interface(interface)
    flags = {"flags": IFA_F_NODAD} if wanted.version == 6 and not detect_duplicates else {}
    broadcast = {"broadcast": str(wanted.network.broadcast_address)} if wanted.version == 4 else {}
    if wanted.version == 4 and wanted.network.prefixlen >= 31:  # RFC 3021: no broadcast there
        broadcast = {}
    try:
        _call(
            "add",
            method="addr",
            index=link_index,
            address=str(wanted.ip),
            prefixlen=wanted.network.prefixlen,
            family=FAMILIES[wanted.version == 6],
            **flags,
            **broadcast,
        )
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def delete_address(link_index: int, interface: str) -> None:
    """Idempotent."""
    wanted = ip_interface(interface)
    _call_gone_is_fine(
        "del", method="addr", index=link_index, address=str(wanted.ip), prefixlen=wanted.network.prefixlen
    )


def routes(names: dict[int, str]) -> set[Route]:
    """The main tables' unicast routes that somebody set: not the kernel's own nor a router advertisement's."""
    found: set[Route] = set()
    for family in FAMILIES:
        for message in _call(method="get_routes", family=family, table=ROUTE_TABLE_MAIN):
            ours = message["proto"] not in (ROUTE_PROTO_KERNEL, ROUTE_PROTO_RA)
            if ours and message["type"] == ROUTE_UNICAST and message.get_attr("RTA_OIF") in names:
                found.add(_route_value(message, names))
    return found


def _route_value(message: Any, names: dict[int, str]) -> Route:
    anywhere = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    destination = message.get_attr("RTA_DST") or anywhere
    return Route(
        destination=f"{destination}/{message['dst_len']}",
        gateway=message.get_attr("RTA_GATEWAY"),
        device=names[message.get_attr("RTA_OIF")],
    )


def put_route(route: Route, link_index: int) -> None:
    """Adds it, or lets it take the place of the one to the same destination."""
    _call("replace", method="route", **_route_request(route, link_index))


def delete_route(route: Route, link_index: int) -> None:
    """Idempotent."""
    _call_gone_is_fine("del", method="route", **_route_request(route, link_index))


def _route_request(route: Route, link_index: int) -> dict[str, Any]:
    family = socket.AF_INET6 if ":" in route.destination else socket.AF_INET
    request: dict[str, Any] = {"dst": route.destination, "oif": link_index, "family": family}
    if route.gateway is not None:
        return request | {"gateway": route.gateway}
    return request | ({"scope": SCOPE_LINK} if family == socket.AF_INET else {})


def neighbours(link_index: int) -> dict[str, str]:
    """IP address → MAC address, of those that have answered."""
    found: dict[str, str] = {}
    for family in FAMILIES:
        for message in _call("dump", method="neigh", ifindex=link_index, family=family):
            mac_address = message.get_attr("NDA_LLADDR")
            if mac_address and not message["state"] & NEIGHBOUR_USELESS and message["ifindex"] == link_index:
                found[message.get_attr("NDA_DST")] = mac_address
    return found


def _call_gone_is_fine(*arguments: Any, method: str, **keywords: Any) -> None:
    try:
        _call(*arguments, method=method, **keywords)
    except OSError as error:
        if error.errno not in GONE:
            raise
