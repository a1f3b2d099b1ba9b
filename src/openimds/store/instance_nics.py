"""An instance's NICs from its ports, as nova builds its network_info from Neutron's answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from openimds.resources.instance import Nic, NicAddress, NicSubnet
from openimds.resources.network import DEVICE_ID_CHARS, DEVICE_OWNER_COMPUTE_PREFIX, DEVICE_OWNER_DHCP, HostRoute
from openimds.store.models import FloatingIP, IPAllocation, Network, Port, SecurityGroup, Server, Subnet

VIF_TYPE = "bridge"
"""Every port of ours is plugged into a Linux bridge."""


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What NICs are made of besides their ports."""

    networks: dict[str, Network]
    subnets: dict[str, Subnet]
    with_dhcp_server: frozenset[str]
    """Ids of subnets on which a DHCP port has an address."""
    floating: dict[tuple[str, str | None], list[str]]
    """(port id, fixed address) → floating addresses."""


def instance_ports(session: Session, server: Server) -> list[Port]:
    """The instance's ports in the order of its NICs; a port that the order does not name comes last."""
    ports = session.scalars(
        sa.select(Port)
        .where(Port.device_id == server.id, Port.device_owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX))
        .options(selectinload(Port.fixed_ips))
        .order_by(Port.created_at, Port.id)
    ).all()
    places = {port_id: place for place, port_id in enumerate(server.nic_order or ())}
    return sorted(ports, key=lambda port: places.get(port.id, len(places)))


def nics_of_ports(session: Session, ports: Sequence[Port]) -> tuple[Nic, ...]:
    """One NIC a port."""
    around = _surroundings(session, ports)
    return tuple(_nic(port, around) for port in ports)


def security_group_names(session: Session, ports: Sequence[Port]) -> tuple[str, ...]:
    """The names of all groups that the ports are in, in the ports' order, each once."""
    ids = list(dict.fromkeys(group for port in ports for group in port.security_group_ids or ()))
    names: dict[str, str] = {
        row.id: row.name for row in session.scalars(sa.select(SecurityGroup).where(SecurityGroup.id.in_(ids)))
    }
    return tuple(dict.fromkeys(names[group] for group in ids if group in names))


def _surroundings(session: Session, ports: Sequence[Port]) -> _Surroundings:
    subnet_ids = {fixed.subnet_id for port in ports for fixed in port.fixed_ips}
    network_ids = {port.network_id for port in ports}
    served = session.scalars(
        sa.select(IPAllocation.subnet_id)
        .join(Port, Port.id == IPAllocation.port_id)
        .where(Port.device_owner == DEVICE_OWNER_DHCP, IPAllocation.subnet_id.in_(subnet_ids))
    )
    return _Surroundings(
        networks={row.id: row for row in session.scalars(sa.select(Network).where(Network.id.in_(network_ids)))},
        subnets={row.id: row for row in session.scalars(sa.select(Subnet).where(Subnet.id.in_(subnet_ids)))},
        with_dhcp_server=frozenset(served),
        floating=_floating(session, {port.id for port in ports}),
    )


def _floating(session: Session, port_ids: Iterable[str]) -> dict[tuple[str, str | None], list[str]]:
    rows = session.scalars(
        sa.select(FloatingIP).where(FloatingIP.port_id.in_(port_ids)).order_by(FloatingIP.created_at, FloatingIP.id)
    )
    found: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for row in rows:
        found[row.port_id or "", row.fixed_ip_address].append(row.floating_ip_address)
    return found


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
