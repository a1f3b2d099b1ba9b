"""ServerRecords from rows. The number of queries does not depend on the number of servers."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.compute import ServerAddress, ServerRecord
from openimds.resources.instance import EC2_INSTANCE
from openimds.store.models.compute import Ec2Id, Server
from openimds.store.models.network import FloatingIP, Network, Port

VM_STATES = {"SHUTOFF": "stopped", "ERROR": "error", "BUILD": "building"}
POWER_STATES = {"SHUTOFF": 4, "ERROR": 0, "BUILD": 0}
RUNNING = 1


def server_records(session: Session, rows: Sequence[Server]) -> list[ServerRecord]:
    """The records in the order of the rows."""
    ids = [row.id for row in rows]
    addresses = _addresses(session, rows)
    numbers = _ec2_numbers(session, ids)
    return [_record(row, tuple(addresses.get(row.id, ())), numbers.get(row.id, 0)) for row in rows]


def _record(row: Server, addresses: tuple[ServerAddress, ...], ec2_number: int) -> ServerRecord:
    return ServerRecord(
        id=row.id,
        name=row.name,
        project_id=row.project_id,
        user_id=row.user_id,
        hostname=row.hostname,
        description=row.description,
        image_id=row.image_id,
        flavor=row.flavor,
        availability_zone=row.availability_zone,
        pinned_zone=row.pinned_zone,
        key_name=row.key_name,
        user_data=row.user_data,
        metadata=row.metadata_,
        security_group_names=tuple(group["name"] for group in row.security_groups),
        config_drive=row.config_drive,
        launch_index=row.launch_index,
        reservation_id=row.reservation_id,
        root_device_name=row.root_device_name,
        kernel_id=row.kernel_id,
        ramdisk_id=row.ramdisk_id,
        tags=tuple(row.tags),
        locked=row.locked,
        host=row.host,
        status=row.status,
        task_state=row.task_state,
        power_state=POWER_STATES.get(row.status, RUNNING),
        vm_state=VM_STATES.get(row.status, "active"),
        fault=row.fault,
        addresses=addresses,
        access_ip_v4=row.access_ip_v4,
        access_ip_v6=row.access_ip_v6,
        created_at=row.created_at,
        updated_at=row.updated_at,
        launched_at=row.launched_at,
        ec2_number=ec2_number,
    )


def _addresses(session: Session, rows: Sequence[Server]) -> Mapping[str, list[ServerAddress]]:
    statement = sa.select(Port).where(Port.attached_id.in_([row.id for row in rows]))
    ports = {port.id: port for port in session.scalars(statement)}
    names = _network_names(session, {port.network_id for port in ports.values()})
    floating: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in session.scalars(sa.select(FloatingIP).where(FloatingIP.port_id.in_(list(ports)))):
        floating[row.port_id or "", row.fixed_ip_address or ""].append(row.floating_ip_address)
    found: dict[str, list[ServerAddress]] = defaultdict(list)
    for server in rows:
        for port_id in server.nic_order:
            if port_id in ports:
                found[server.id].extend(_of_port(ports[port_id], names, floating))
    return found


def _of_port(
    port: Port, names: Mapping[str, str], floating: Mapping[tuple[str, str], list[str]]
) -> list[ServerAddress]:
    shown: list[ServerAddress] = []
    for fixed in port.fixed_ips:
        here = [
            (fixed.ip_address, False),
            *((address, True) for address in floating.get((port.id, fixed.ip_address), ())),
        ]
        shown.extend(
            ServerAddress(
                network_name=names[port.network_id],
                address=address,
                version=ipaddress.ip_address(address).version,
                mac_address=port.mac_address,
                floating=is_floating,
            )
            for address, is_floating in here
        )
    return shown


def _network_names(session: Session, ids: set[str]) -> Mapping[str, str]:
    statement = sa.select(Network.id, Network.name).where(Network.id.in_(ids))
    return dict(session.execute(statement).all())


def _ec2_numbers(session: Session, ids: Sequence[str]) -> Mapping[str, int]:
    statement = sa.select(Ec2Id.object_id, Ec2Id.number).where(Ec2Id.kind == EC2_INSTANCE, Ec2Id.object_id.in_(ids))
    return dict(session.execute(statement).all())
