"""An instance's NICs from its ports, as nova builds its network_info from Neutron's answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Any, NamedTuple

from openimds.resources.instance import Nic, NicAddress, NicSubnet
from openimds.resources.network import DEVICE_ID_CHARS, HostRoute
from openimds.store.raw.database import Transaction
from openimds.store.raw.statements import Query, json_value, shared

VIF_TYPE = "bridge"
"""Every port of ours is plugged into a Linux bridge."""


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """What a server has by its ports."""

    nics: tuple[Nic, ...]
    security_groups: tuple[str, ...]
    """The names of all groups that the ports are in, in the ports' order, each once."""


class _Address(NamedTuple):
    """A fixed address of a port, with both its and its subnet's surroundings; or a port without any."""

    server_id: str
    created_at: datetime | str
    port_id: str
    mac_address: str
    network_id: str
    security_group_ids: str
    mtu: int | None
    position: int | None
    ip_address: str | None
    subnet_id: str | None
    ip_version: int
    cidr: str
    gateway_ip: str | None
    dns_nameservers: str
    host_routes: str
    enable_dhcp: bool
    ipv6_address_mode: str | None


_ADDRESSES = Query(
    (
        "p.attached_id", "p.created_at", "p.id", "p.mac_address", "p.network_id", "p.security_group_ids", "n.mtu",
        "a.position", "a.ip_address", "s.id", "s.ip_version", "s.cidr", "s.gateway_ip", "s.dns_nameservers",
        "s.host_routes", "s.enable_dhcp", "s.ipv6_address_mode",
    ),
    "ports p LEFT JOIN networks n ON n.id = p.network_id LEFT JOIN ip_allocations a ON a.port_id = p.id"
    " LEFT JOIN subnets s ON s.id = a.subnet_id"
    " WHERE p.attached_id IN :server_ids AND SUBSTR(p.attached_owner, 1, 8) = 'compute:'",
)  # fmt: skip
_SERVED = Query(
    ("a.subnet_id",),
    "ports p JOIN ip_allocations a ON a.port_id = p.id"
    # Literally so, as the index of DHCP ports is.
    " WHERE p.attached_owner = 'network:dhcp' AND p.network_id IN :network_ids",
)
_FLOATING = Query(
    ("port_id", "fixed_ip_address", "created_at", "id", "floating_ip_address"),
    "floating_ips WHERE port_id IN :port_ids",
)
_GROUPS = Query(("id", "name"), "security_groups WHERE id IN :group_ids")


@dataclass(frozen=True, slots=True)
class _Related:
    """What NICs are made of besides their ports."""

    with_dhcp_server: frozenset[str]
    """Ids of subnets on which a DHCP port has an address."""
    floating: Mapping[tuple[str, str | None], Sequence[str]]
    """(port id, fixed address) → floating addresses."""
    group_names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Port:
    about: _Address
    addresses: Sequence[_Address]
    group_ids: Sequence[str]


def network_info_of(transaction: Transaction, orders: Mapping[str, Sequence[str]]) -> dict[str, NetworkInfo]:
    """`orders`: server id → port ids in the order of its NICs; a port that it does not name comes last.

    By server id; a server without ports is not among them. As many queries for many servers as for one.
    """
    ports = _ports(transaction, orders)
    if not ports:
        return {}
    around = _surroundings(transaction, [port for owned in ports.values() for port in owned])
    return {
        server_id: NetworkInfo(tuple(_nic(port, around) for port in owned), _group_names(owned, around))
        for server_id, owned in ports.items()
    }


def _ports(transaction: Transaction, orders: Mapping[str, Sequence[str]]) -> dict[str, list[_Port]]:
    rows: defaultdict[str, list[_Address]] = defaultdict(list)
    for row in transaction.rows(_ADDRESSES, server_ids=list(orders)):
        address = _Address._make(row)
        rows[address.port_id].append(address)
    found: defaultdict[str, list[_Port]] = defaultdict(list)
    for addresses in rows.values():
        about = addresses[0]
        given = sorted((one for one in addresses if one.ip_address is not None), key=lambda one: one.position or 0)
        found[about.server_id].append(_Port(about, given, json_value(about.security_group_ids) or ()))
    for server_id, owned in found.items():
        places = {port_id: place for place, port_id in enumerate(orders[server_id])}
        owned.sort(key=lambda port: (places.get(port.about.port_id, len(places)), *_age(port.about)))
    return found


def _age(about: _Address) -> tuple[Any, str]:
    return about.created_at, about.port_id


def _surroundings(transaction: Transaction, ports: Sequence[_Port]) -> _Related:
    groups = {group for port in ports for group in port.group_ids}
    networks = {port.about.network_id for port in ports}
    return _Related(
        with_dhcp_server=frozenset(row[0] for row in transaction.rows(_SERVED, network_ids=list(networks))),
        floating=_floating(transaction, [port.about.port_id for port in ports]),
        group_names=dict(transaction.rows(_GROUPS, group_ids=list(groups))) if groups else {},
    )


def _floating(transaction: Transaction, port_ids: list[str]) -> dict[tuple[str, str | None], list[str]]:
    found: defaultdict[tuple[str, str | None], list[str]] = defaultdict(list)
    rows = transaction.rows(_FLOATING, port_ids=port_ids)
    for port_id, fixed, _created_at, _id, address in sorted(rows, key=lambda row: (row[2], row[3])):
        found[port_id, fixed].append(address)
    return found


def _group_names(ports: Iterable[_Port], around: _Related) -> tuple[str, ...]:
    ids = [group for port in ports for group in port.group_ids]
    return tuple(dict.fromkeys(around.group_names[group] for group in ids if group in around.group_names))


def _nic(port: _Port, around: _Related) -> Nic:
    of_subnet: dict[str, list[_Address]] = {}
    for address in port.addresses:
        if address.subnet_id is not None:
            of_subnet.setdefault(address.subnet_id, []).append(address)
    about = port.about
    return Nic(
        port_id=about.port_id,
        mac_address=about.mac_address,
        vif_type=VIF_TYPE,
        device_name=f"tap{about.port_id[:DEVICE_ID_CHARS]}",
        network_id=intern(about.network_id),
        mtu=about.mtu,
        subnets=tuple(_subnet(addresses, around) for addresses in of_subnet.values()),
    )


def _subnet(addresses: Sequence[_Address], around: _Related) -> NicSubnet:
    subnet = addresses[0]
    return NicSubnet(
        ip_version=subnet.ip_version,
        cidr=intern(subnet.cidr),
        gateway_ip=shared(subnet.gateway_ip),
        addresses=tuple(_address(one, around) for one in addresses),
        dns_nameservers=tuple(map(intern, json_value(subnet.dns_nameservers) or ())),
        host_routes=tuple(
            HostRoute(intern(route["destination"]), intern(route["nexthop"]))
            for route in json_value(subnet.host_routes) or ()
        ),
        enable_dhcp=bool(subnet.enable_dhcp),
        has_dhcp_server=subnet.subnet_id in around.with_dhcp_server,
        ipv6_address_mode=shared(subnet.ipv6_address_mode),
    )


def _address(one: _Address, around: _Related) -> NicAddress:
    fixed = str(one.ip_address)
    return NicAddress(fixed, tuple(around.floating.get((one.port_id, fixed), ())))
