"""Routes of the main table: rtnetlink(7).

Every function works in the network namespace of the calling thread. `MAIN_TABLE_DUMPS` can also be sent on a
`NetlinkSocket`, which works in the namespace that it was opened in.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from openimds.linux.netlink.socket import (
    FAMILIES,
    NLM_F_CREATE,
    NLM_F_REPLACE,
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
from openimds.netconfig.namespace_state import Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RT_TABLE_MAIN = 254
RTN_UNICAST = 1
RTPROT_KERNEL = 2
RTPROT_STATIC = 4
RTPROT_RA = 9
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255

_RTMSG = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, prefix length of destination and source, tos, table, protocol, scope, type, flags."""

MAIN_TABLE_DUMPS = {
    family: Dump(RTM_GETROUTE, _RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)) for family in FAMILIES
}
NO_TABLE_ERRNOS = frozenset({errno.ENOENT, errno.EOPNOTSUPP})
"""Errors of a dump of a routing table that does not exist (yet)."""


def parse_routes(dump: bytes, family: int, names: Mapping[int, str]) -> frozenset[Route]:
    """Parses the unicast routes of the main table.

    Routes that the kernel made itself or took from a router advertisement are left out. `names` maps device indexes to
    names.
    """
    found = (_parse_route(payload, family, names) for _kind, _flags, payload in parse_messages(dump))
    return frozenset(route for route in found if route is not None)


def _parse_route(payload: bytes, family: int, names: Mapping[int, str]) -> Route | None:
    route_family, length, _source, _tos, table, protocol, _scope, kind, _flags = _RTMSG.unpack_from(payload)
    if (route_family, kind) != (family, RTN_UNICAST) or protocol in (RTPROT_KERNEL, RTPROT_RA):
        return None
    found = parse_attributes(payload, _RTMSG.size)
    device = names.get(parse_u32(found.get(RTA_OIF)) or 0)
    if device is None or (parse_u32(found.get(RTA_TABLE)) or table) != RT_TABLE_MAIN:
        return None
    unspecified = bytes(4) if family == socket.AF_INET else bytes(16)
    gateway = found.get(RTA_GATEWAY)
    return Route(
        f"{format_address(found.get(RTA_DST, unspecified))}/{length}",
        format_address(gateway) if gateway else None,
        device,
    )


def put_route(route: Route, link_index: int) -> None:
    """Adds a route, or replaces the route to the same destination."""
    scope = RT_SCOPE_LINK if route.gateway is None and ":" not in route.destination else RT_SCOPE_UNIVERSE
    request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _route_body(route, link_index, RTPROT_STATIC, scope))


def delete_route(route: Route, link_index: int) -> None:
    """Removes a route. Idempotent."""
    scope = RT_SCOPE_UNIVERSE if ":" in route.destination else RT_SCOPE_NOWHERE
    delete_if_exists(RTM_DELROUTE, _route_body(route, link_index, 0, scope))


def _route_body(route: Route, link_index: int, protocol: int, scope: int) -> bytes:
    destination = ip_network(route.destination)
    family = FAMILIES[destination.version == 6]
    kind = RTN_UNICAST if protocol else 0
    body = _RTMSG.pack(family, destination.prefixlen, 0, 0, RT_TABLE_MAIN, protocol, scope, kind, 0)
    body += pack_attribute(RTA_DST, destination.network_address.packed) if destination.prefixlen else b""
    body += pack_attribute(RTA_GATEWAY, ip_address(route.gateway).packed) if route.gateway is not None else b""
    return body + pack_u32(RTA_OIF, link_index)
