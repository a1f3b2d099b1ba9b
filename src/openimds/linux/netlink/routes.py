"""What this system says to the kernel about routes: rtnetlink(7).

Every function speaks to the namespace of the thread that calls it; `MAIN_TABLES` can be asked of a `Conversation` too.
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
    as_number,
    ask,
    attribute,
    attributes,
    delete_if_exists,
    format_address,
    messages,
    number,
)
from openimds.netconfig.namespace_state import Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
ROUTE_TABLE_MAIN = 254
ROUTE_UNICAST = 1
ROUTE_PROTO_KERNEL = 2
ROUTE_PROTO_STATIC = 4
ROUTE_PROTO_RA = 9
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_ANY = 0, 253, 255

_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination's and source's prefix length, tos, table, protocol, scope, type, flags."""

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
    return Route(
        f"{format_address(found.get(RTA_DST, anywhere))}/{length}", format_address(gateway) if gateway else None, device
    )


def put_route(route: Route, link_index: int) -> None:
    """Adds it, or lets it take the place of the one to the same destination."""
    scope = SCOPE_LINK if route.gateway is None and ":" not in route.destination else SCOPE_UNIVERSE
    ask(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _route_body(route, link_index, ROUTE_PROTO_STATIC, scope))


def delete_route(route: Route, link_index: int) -> None:
    """Idempotent."""
    scope = SCOPE_UNIVERSE if ":" in route.destination else SCOPE_ANY
    delete_if_exists(RTM_DELROUTE, _route_body(route, link_index, 0, scope))


def _route_body(route: Route, link_index: int, protocol: int, scope: int) -> bytes:
    to = ip_network(route.destination)
    family = FAMILIES[to.version == 6]
    kind = ROUTE_UNICAST if protocol else 0
    body = _ROUTE.pack(family, to.prefixlen, 0, 0, ROUTE_TABLE_MAIN, protocol, scope, kind, 0)
    body += attribute(RTA_DST, to.network_address.packed) if to.prefixlen else b""
    body += attribute(RTA_GATEWAY, ip_address(route.gateway).packed) if route.gateway is not None else b""
    return body + number(RTA_OIF, link_index)
