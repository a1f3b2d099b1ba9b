"""An instance's NICs from its ports, as nova builds its network_info from Neutron's answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from openimds.resources.instance import Nic, NicAddress, NicSubnet
from openimds.resources.network import DEVICE_ID_CHARS, DEVICE_OWNER_COMPUTE_PREFIX, DEVICE_OWNER_DHCP, HostRoute
from openimds.store.chunks import rows_of
from openimds.store.models import FloatingIP, IPAllocation, Network, Port, SecurityGroup, Server, Subnet

VIF_TYPE = "bridge"
"""Every port of ours is plugged into a Linux bridge."""


@dataclass(frozen=True, slots=True)
class Plugged:
    """What a server has by its ports."""

    nics: tuple[Nic, ...]
    security_groups: tuple[str, ...]
    """The names of all groups that the ports are in, in the ports' order, each once."""


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What NICs are made of besides their ports."""

    networks: dict[str, Network]
    subnets: dict[str, Subnet]
    with_dhcp_server: frozenset[str]
    """Ids of subnets on which a DHCP port has an address."""
    floating: dict[tuple[str, str | None], list[str]]
    """(port id, fixed address) → floating addresses."""
    group_names: dict[str, str]


def plugged_of(session: Session, servers: Sequence[Server]) -> dict[str, Plugged]:
    """By server id; a server without ports is not among them. As many queries for many servers as for one."""
    ports = _ports(session, servers)
    around = _surroundings(session, [port for owned in ports.values() for port in owned])
    return {
        server_id: Plugged(tuple(_nic(port, around) for port in owned), _group_names(owned, around))
        for server_id, owned in ports.items()
    }


def _ports(session: Session, servers: Sequence[Server]) -> dict[str, list[Port]]:
    """Each server's in the order of its NICs; a port that the order does not name comes last."""
    asked = (
        sa.select(Port)
        .where(Port.device_owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX))
        .options(selectinload(Port.fixed_ips))
        .order_by(Port.created_at, Port.id)
    )
    found: defaultdict[str, list[Port]] = defaultdict(list)
    for port in rows_of(session, asked, Port.device_id, [server.id for server in servers]):
        found[port.device_id].append(port)
    for server in servers:
        if server.id in found:
            places = {port_id: place for place, port_id in enumerate(server.nic_order or ())}
            found[server.id].sort(key=lambda port: places.get(port.id, len(places)))
    return found


def _surroundings(session: Session, ports: Sequence[Port]) -> _Surroundings:
    subnet_ids = {fixed.subnet_id for port in ports for fixed in port.fixed_ips}
    group_ids = {group for port in ports for group in port.security_group_ids or ()}
    served = (
        sa.select(IPAllocation.subnet_id)
        .join(Port, Port.id == IPAllocation.port_id)
        .where(Port.device_owner == DEVICE_OWNER_DHCP)
    )
    networks = rows_of(session, sa.select(Network), Network.id, {port.network_id for port in ports})
    subnets = rows_of(session, sa.select(Subnet), Subnet.id, subnet_ids)
    groups = rows_of(session, sa.select(SecurityGroup), SecurityGroup.id, group_ids)
    return _Surroundings(
        networks={row.id: row for row in networks},
        subnets={row.id: row for row in subnets},
        with_dhcp_server=frozenset(rows_of(session, served, IPAllocation.subnet_id, subnet_ids)),
        floating=_floating(session, {port.id for port in ports}),
        group_names={row.id: row.name for row in groups},
    )


def _floating(session: Session, port_ids: Iterable[str]) -> dict[tuple[str, str | None], list[str]]:
    asked = sa.select(FloatingIP).order_by(FloatingIP.created_at, FloatingIP.id)
    found: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for row in rows_of(session, asked, FloatingIP.port_id, port_ids):
        found[row.port_id or "", row.fixed_ip_address].append(row.floating_ip_address)
    return found


def _group_names(ports: Iterable[Port], around: _Surroundings) -> tuple[str, ...]:
    ids = [group for port in ports for group in port.security_group_ids or ()]
    return tuple(dict.fromkeys(around.group_names[group] for group in ids if group in around.group_names))


def _nic(port: Port, around: _Surroundings) -> Nic:
    network = around.networks.get(port.network_id)
    subnet_ids = dict.fromkeys(fixed.subnet_id for fixed in port.fixed_ips)
    return Nic(
        port_id=port.id,
        mac_address=port.mac_address,
        vif_type=VIF_TYPE,
        device_name=f"tap{port.id[:DEVICE_ID_CHARS]}",
        network_id=port.network_id,
        mtu=network.mtu if network else None,
        subnets=tuple(
            _subnet(port, around.subnets[subnet_id], around) for subnet_id in subnet_ids if subnet_id in around.subnets
        ),
    )


def _subnet(port: Port, subnet: Subnet, around: _Surroundings) -> NicSubnet:
    addresses = [fixed.ip_address for fixed in port.fixed_ips if fixed.subnet_id == subnet.id]
    return NicSubnet(
        ip_version=subnet.ip_version,
        cidr=subnet.cidr,
        gateway_ip=subnet.gateway_ip,
        addresses=tuple(
            NicAddress(address, tuple(around.floating.get((port.id, address), ()))) for address in addresses
        ),
        dns_nameservers=tuple(subnet.dns_nameservers or ()),
        host_routes=tuple(HostRoute(route["destination"], route["nexthop"]) for route in subnet.host_routes or ()),
        enable_dhcp=subnet.enable_dhcp,
        has_dhcp_server=subnet.id in around.with_dhcp_server,
        ipv6_address_mode=subnet.ipv6_address_mode,
    )
