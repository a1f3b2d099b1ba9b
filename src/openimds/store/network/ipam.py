"""IP address management: the addresses of ports, and how many addresses of networks are used.

Allocations run under the write lock of the store, so that an address that is free here stays free until the commit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, Conflict, Forbidden
from openimds.resources.network import DEVICE_OWNER_DHCP, DEVICE_OWNER_ROUTER_GATEWAY, DEVICE_OWNER_ROUTER_INTERFACE
from openimds.resources.query import ListQuery
from openimds.store.change_log import record_bulk_write
from openimds.store.models.network import IPAllocation, Network, Port, Subnet, address_sort_key
from openimds.store.network import ip_math
from openimds.store.network.access import get_visible
from openimds.store.network.ip_math import Span

AUTOMATIC_MODES = frozenset({"slaac", "dhcpv6-stateless"})
ROUTER_OWNERS = frozenset({DEVICE_OWNER_ROUTER_INTERFACE, DEVICE_OWNER_ROUTER_GATEWAY})

MAX_NEW_ADDRESSES = 1000
"""Maximum number of addresses that one request allocates to its ports."""
MAX_AUTOMATIC_ADDRESSES = 10_000
"""Maximum number of addresses that new subnets of one request give to existing ports."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An address for a port."""

    subnet: Subnet
    ip_address: str


def is_automatic(subnet: Subnet) -> bool:
    """Whether devices generate their own addresses in the subnet, from their MAC."""
    return subnet.ipv6_address_mode in AUTOMATIC_MODES


def choose(
    session: Session, port: Port, subnets: Sequence[Subnet], requested: Sequence[dict[str, Any]] | None
) -> list[Chosen]:
    """The addresses for a port on a network with these subnets.

    `requested` is the request's fixed_ips. None selects one IPv4 and one IPv6 address, as far as the network has subnets of
    these versions. An empty list selects none. Raises BadRequest (field fixed_ips), and Conflict if an address is in use or
    a subnet is exhausted.
    """
    if requested is not None and not requested:
        return []
    chosen: list[Chosen] = []
    if requested is None:
        for version in (4, 6):
            pooled = [s for s in subnets if s.ip_version == version and not is_automatic(s)]
            if pooled:
                chosen.append(_from_any(session, pooled, {}))
    else:
        chosen.extend(_given(session, port, subnets, requested))
    return [*chosen, *_automatic(session, port, subnets, chosen)]


def assign(session: Session, port: Port, chosen: Sequence[Chosen]) -> None:
    """Replaces the allocations of the port. Rows of addresses that stay are not written. Raises BadRequest (fixed_ips) if
    the transaction allocates more than MAX_NEW_ADDRESSES.
    """
    unchanged = {row.ip_address: row for row in port.fixed_ips}
    new = sum(choice.ip_address not in unchanged for choice in chosen)
    _check_count(session, "fixed_ips", new, MAX_NEW_ADDRESSES)
    rows = []
    for position, choice in enumerate(chosen):
        row = unchanged.get(choice.ip_address) or IPAllocation(
            ip_address=choice.ip_address, subnet_id=choice.subnet.id, network_id=port.network_id
        )
        row.position = position
        rows.append(row)
    if len(unchanged) > sum(row.ip_address in unchanged for row in rows):
        forget_full_pools(session)
    port.fixed_ips = rows
    session.flush()


def forget_full_pools(session: Session) -> None:
    """Makes the next search begin at the start of each pool, because an address becomes free."""
    session.info.pop("full", None)


def address_present_ports(session: Session, subnet: Subnet) -> None:
    """Adds the addresses that the devices on the network generate in a new subnet with automatic addresses.

    Raises BadRequest if the transaction adds more than MAX_AUTOMATIC_ADDRESSES. A network can have thousands of ports, so
    that the rows are written in bulk.
    """
    position = sa.func.coalesce(sa.func.max(IPAllocation.position) + 1, 0)
    devices = (
        sa.select(Port.id, Port.mac_address, position)
        .outerjoin(IPAllocation, IPAllocation.port_id == Port.id)
        .where(Port.network_id == subnet.network_id, Port.attached_owner.not_in(ROUTER_OWNERS))
        .group_by(Port.id, Port.mac_address)
        .limit(MAX_AUTOMATIC_ADDRESSES + 1)
    )
    found = session.execute(devices).all()
    _check_count(session, "ipv6_address_mode", len(found), MAX_AUTOMATIC_ADDRESSES)
    net = ip_math.network(subnet.cidr)
    rows: list[dict[str, Any]] = []
    for port_id, mac_address, next_position in found:
        address = ip_math.eui64_address(net, mac_address)
        rows.append({
            "port_id": port_id,
            "ip_address": address,
            "subnet_id": subnet.id,
            "network_id": subnet.network_id,
            "sort_key": address_sort_key(address),
            "position": next_position,
        })  # fmt: skip
    if rows:
        session.connection().execute(sa.insert(IPAllocation), rows)
        record_bulk_write(session, Port, [row["port_id"] for row in rows], _has_address_in(subnet))


def has_unremovable_address(session: Session, subnet: Subnet) -> bool:
    """Whether a port has an address in the subnet that does not disappear with it."""
    rows = sa.select(IPAllocation.port_id).join(Port).where(IPAllocation.subnet_id == subnet.id)
    if is_automatic(subnet):
        rows = rows.where(Port.attached_owner.in_(ROUTER_OWNERS))
    else:
        rows = rows.where(Port.attached_owner != DEVICE_OWNER_DHCP)
    return session.scalar(rows.limit(1)) is not None


def remove_addresses(session: Session, subnet: Subnet) -> None:
    """Removes all addresses in a subnet that is about to be deleted. The rows are deleted in bulk, as they are written."""
    in_subnet = IPAllocation.subnet_id == subnet.id
    port_ids = session.scalars(sa.select(IPAllocation.port_id).where(in_subnet)).all()
    if port_ids:
        record_bulk_write(session, Port, port_ids, _has_address_in(subnet))
        session.connection().execute(sa.delete(IPAllocation).where(in_subnet))
        forget_full_pools(session)


def _has_address_in(subnet: Subnet) -> sa.ColumnElement[bool]:
    return Port.id.in_(sa.select(IPAllocation.port_id).where(IPAllocation.subnet_id == subnet.id))


def _check_count(session: Session, field: str, more: int, most: int) -> None:
    """Counts new addresses. A bound on them bounds the time for which a request has the write lock. Raises BadRequest."""
    counts: dict[str, int] = session.info.setdefault("new addresses", {})
    counts[field] = counts.get(field, 0) + more
    if counts[field] > most:
        raise BadRequest(
            field,
            f"Invalid input for operation: {field}: the request allocates more than {most} addresses.",
            kind="InvalidInput",
        )


def pools(subnet: Subnet) -> list[Span]:
    """The subnet's allocation pools, as spans."""
    return [Span(ip_math.number(pool["start"]), ip_math.number(pool["end"])) for pool in subnet.allocation_pools]


def used_in(session: Session, subnet_id: str, span: Span) -> int:
    """The number of allocated addresses in the span."""
    rows = sa.select(sa.func.count()).where(
        IPAllocation.subnet_id == subnet_id,
        IPAllocation.sort_key.between(f"{span.first:032x}", f"{span.last:032x}"),
    )
    return session.execute(rows).scalar_one()


def owner_of(session: Session, subnet_id: str, address: str) -> Port | None:
    """The port with this address, or None."""
    row = session.scalar(
        sa.select(IPAllocation).where(IPAllocation.subnet_id == subnet_id, IPAllocation.ip_address == address)
    )
    return row.port if row else None


def _from_any(session: Session, subnets: Sequence[Subnet], reserved: Mapping[str, Sequence[int]]) -> Chosen:
    """The lowest free address of the first subnet that has one. `reserved` is by subnet: chosen addresses without a row."""
    full: dict[tuple[str, int], int] = session.info.setdefault("full", {})
    for subnet in subnets:
        for pool in pools(subnet):
            key = (subnet.id, pool.first)
            rest = Span(full.get(key, pool.first), pool.last)
            free = _lowest_free(session, subnet.id, rest, reserved.get(subnet.id, ()))
            if free is not None:
                # The address will be assigned, and none below it is free until this transaction frees one.
                full[key] = free + 1
                return Chosen(subnet, ip_math.text(free, subnet.ip_version))
    names = ", ".join(f"{s.id} ({s.cidr})" for s in subnets)
    raise Conflict(
        f"No more IP addresses available on network {subnets[0].network_id}: the pools of {names} are exhausted.",
        kind="IpAddressGenerationFailure",
    )


def _lowest_free(session: Session, subnet_id: str, pool: Span, reserved: Sequence[int]) -> int | None:
    """The lowest free address of a pool, by bisection with a few counts on an index, however large the pool is.

    `reserved` are addresses that are chosen already and have no row yet, in ascending order.
    """

    def taken(start: int, end: int) -> int:
        part = Span(pool.first + start, pool.first + end - 1)
        chosen = bisect_right(reserved, part.last) - bisect_left(reserved, part.first)
        return used_in(session, subnet_id, part) + max(chosen, 0)

    used = taken(0, pool.size)
    if used >= pool.size:
        return None
    # The first `full` addresses are taken, and one of the first `beyond` is free. Without gaps one query is enough.
    full, beyond, middle = 0, used + 1, used
    while beyond - full > 1:
        if taken(full, middle) == middle - full:
            full = middle
        else:
            beyond = middle
        middle = (full + beyond) // 2
    return pool.first + full


def _given(
    session: Session, port: Port, subnets: Sequence[Subnet], requested: Sequence[dict[str, Any]]
) -> list[Chosen]:
    """The addresses of a request. Explicit ones are chosen first, so that no pool yields them."""
    chosen: dict[int, Chosen] = {}
    for index, entry in enumerate(requested):
        if entry.get("ip_address"):
            chosen[index] = _explicit(session, port, subnets, entry)
    _refuse_repeated(chosen.values())
    own = {row.ip_address for row in port.fixed_ips}
    reserved: dict[str, list[int]] = {}
    for choice in chosen.values():
        if choice.ip_address not in own:
            reserved.setdefault(choice.subnet.id, []).append(ip_math.number(choice.ip_address))
    for numbers in reserved.values():
        numbers.sort()
    taken = {choice.ip_address for choice in chosen.values()}
    before = {row.subnet_id: row.ip_address for row in reversed(port.fixed_ips)}
    for index, entry in enumerate(requested):
        if index not in chosen:
            subnet = _subnet_of(port, subnets, str(entry.get("subnet_id")))
            if is_automatic(subnet) and port.attached_owner not in ROUTER_OWNERS:
                continue  # _automatic adds it
            unchanged = before.pop(subnet.id, None)
            if unchanged and unchanged not in taken:
                chosen[index] = Chosen(subnet, unchanged)
            else:
                chosen[index] = _from_any(session, [subnet], reserved)
    return [chosen[index] for index in sorted(chosen)]


def _explicit(session: Session, port: Port, subnets: Sequence[Subnet], entry: dict[str, Any]) -> Chosen:
    address = str(ip_address(entry["ip_address"]))
    if entry.get("subnet_id"):
        subnet = _subnet_of(port, subnets, entry["subnet_id"])
    else:
        subnet = _subnet_holding(port, subnets, address)
    _check_fits(subnet, address, port)
    owner = owner_of(session, subnet.id, address)
    if owner is not None and owner.id != port.id:
        raise Conflict(
            f"IP address {address} already allocated in subnet {subnet.id}.", kind="IpAddressAlreadyAllocated"
        )
    return Chosen(subnet, address)


def _subnet_of(port: Port, subnets: Sequence[Subnet], subnet_id: str) -> Subnet:
    for subnet in subnets:
        if subnet.id == subnet_id:
            return subnet
    raise BadRequest(
        "fixed_ips",
        f"Invalid input for operation: fixed_ips: subnet {subnet_id} is not a subnet of network {port.network_id}.",
        kind="InvalidInput",
    )


def _subnet_holding(port: Port, subnets: Sequence[Subnet], address: str) -> Subnet:
    value = ip_address(address)
    for subnet in subnets:
        if ip_math.holds(subnet.cidr, value):
            return subnet
    raise BadRequest(
        "fixed_ips",
        f"fixed_ips: IP address {address} is not a valid IP for any subnet on network {port.network_id}.",
        kind="InvalidIpForNetwork",
    )


def _check_fits(subnet: Subnet, address: str, port: Port) -> None:
    net = ip_math.network(subnet.cidr)
    value = ip_address(address)
    if value not in net or int(value) not in ip_math.usable(net):
        raise BadRequest(
            "fixed_ips",
            f"fixed_ips: IP address {address} is not a valid IP for subnet {subnet.id} ({subnet.cidr}).",
            kind="InvalidIpForSubnet",
        )
    if is_automatic(subnet) and port.attached_owner not in ROUTER_OWNERS:
        own = ip_math.eui64_address(net, port.mac_address)
        if address != own:
            raise BadRequest(
                "fixed_ips",
                f"fixed_ips: IPv6 address {address} can not be directly assigned to a port on subnet {subnet.id} "
                f"since the subnet is configured for automatic addresses; this port's is {own}.",
                kind="AllocationOnAutoAddressSubnet",
            )


def _automatic(session: Session, port: Port, subnets: Sequence[Subnet], chosen: Sequence[Chosen]) -> list[Chosen]:
    """The addresses that the device generates itself. Routers have none: their addresses are in the request."""
    if port.attached_owner in ROUTER_OWNERS:
        return []
    had = {c.subnet.id for c in chosen}
    made = [
        Chosen(subnet, ip_math.eui64_address(ip_math.network(subnet.cidr), port.mac_address))
        for subnet in subnets
        if is_automatic(subnet) and subnet.id not in had
    ]
    rows = sa.select(IPAllocation).where(
        IPAllocation.network_id == port.network_id, IPAllocation.ip_address.in_([choice.ip_address for choice in made])
    )
    for row in session.scalars(rows) if made else ():
        if row.port_id != port.id:
            raise Conflict(
                f"IP address {row.ip_address} already allocated in subnet {row.subnet_id}.",
                kind="IpAddressAlreadyAllocated",
            )
    return made


def _refuse_repeated(chosen: Iterable[Chosen]) -> None:
    seen: set[str] = set()
    for choice in chosen:
        if choice.ip_address in seen:
            raise BadRequest(
                "fixed_ips",
                f"Invalid input for operation: fixed_ips: IP address {choice.ip_address} is named twice.",
                kind="InvalidInput",
            )
        seen.add(choice.ip_address)


def list_ip_availability(session: Session, caller: Caller, query: ListQuery) -> list[dict[str, Any]]:
    """The availability of all networks. Filters: network_id, network_name, project_id, ip_version. Raises Forbidden."""
    _require_admin(caller)
    rows = session.scalars(sa.select(Network).order_by(Network.id).options(selectinload(Network.subnets)))
    versions = {int(value) for value in query.filters.get("ip_version", ()) if value.isdigit()}
    shown = [_network_availability(session, row, versions) for row in rows]
    return [entry for entry in shown if _matches(entry, query)]


def show_ip_availability(session: Session, caller: Caller, network_id: str) -> dict[str, Any]:
    """The availability of one network. Raises NotFound, Forbidden."""
    _require_admin(caller)
    return _network_availability(session, get_visible(session, caller, Network, network_id), set())


def _require_admin(caller: Caller) -> None:
    if not caller.may("get_network_ip_availability", caller.project_id):
        raise Forbidden("Only an administrator may see the IP availability of networks.", kind="PolicyNotAuthorized")


def _network_availability(session: Session, row: Network, versions: set[int]) -> dict[str, Any]:
    subnets = [_subnet_availability(session, s) for s in row.subnets if not versions or s.ip_version in versions]
    return {
        "network_id": row.id,
        "network_name": row.name,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "total_ips": sum(s["total_ips"] for s in subnets),
        "used_ips": sum(s["used_ips"] for s in subnets),
        "subnet_ip_availability": subnets,
    }


def _subnet_availability(session: Session, row: Subnet) -> dict[str, Any]:
    used = sa.select(sa.func.count()).where(IPAllocation.subnet_id == row.id)
    return {
        "subnet_id": row.id,
        "subnet_name": row.name,
        "cidr": row.cidr,
        "ip_version": row.ip_version,
        "total_ips": ip_math.total(pools(row)),
        "used_ips": session.execute(used).scalar_one(),
    }


def _matches(entry: dict[str, Any], query: ListQuery) -> bool:
    names = ("network_id", "network_name", "project_id", "tenant_id")
    return all(entry[name] in query.filters[name] for name in names if name in query.filters)
