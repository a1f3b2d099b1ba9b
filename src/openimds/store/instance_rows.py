"""From servers' rows to the Instances that their documents are rendered from: a few queries, for however many."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.instance import (
    BlockDevice,
    Ec2Ids,
    InjectedFile,
    Instance,
    InstanceKey,
    Nic,
    TaggedDevice,
)
from openimds.store.chunks import rows_of
from openimds.store.ec2_ids import IMAGE, INSTANCE, ec2_text
from openimds.store.instance_nics import Plugged, plugged_of
from openimds.store.models import Ec2Id, Server, ServerPassword
from openimds.store.nova_objects import nics_from_network_info


@dataclass(slots=True)
class Ec2Numbers:
    """What is known of them; asking for one that was not given yet notes it in `missing`."""

    known: Mapping[tuple[str, str], int]
    missing: list[tuple[str, str]] = field(default_factory=list)
    """(kind, uuid)"""

    def number(self, kind: str, object_id: str) -> int:
        known = self.known.get((kind, object_id))
        if known is None:
            self.missing.append((kind, object_id))
        return known or 0


def instances_of(session: Session, servers: Sequence[Server]) -> tuple[dict[str, Instance], list[tuple[str, str]]]:
    """(server id → all that its documents tell, the (kind, uuid) that have no EC2 number yet and need one).

    A server that was imported keeps the network it came with until the store holds ports for it.
    """
    plugged = plugged_of(session, servers)
    passwords = rows_of(session, sa.select(ServerPassword), ServerPassword.server_id, [row.id for row in servers])
    password_of: dict[str, str] = {row.server_id: row.password for row in passwords}
    numbers = Ec2Numbers(_numbers(session, servers))
    found = {
        server.id: _instance(server, plugged.get(server.id), numbers, password_of.get(server.id)) for server in servers
    }
    return found, numbers.missing


def _numbers(session: Session, servers: Sequence[Server]) -> dict[tuple[str, str], int]:
    ids = {row.id for row in servers}
    for row in servers:
        ids |= {image for image in (row.image_id, row.kernel_id, row.ramdisk_id) if image}
    rows = rows_of(session, sa.select(Ec2Id), Ec2Id.object_id, ids)
    return {(row.kind, row.object_id): row.number for row in rows}


def _instance(server: Server, plugged: Plugged | None, numbers: Ec2Numbers, password: str | None) -> Instance:
    imported: Mapping[str, Any] = server.imported_document or {}
    given_groups = tuple(str(group.get("name")) for group in server.security_groups or ())
    nics = plugged.nics if plugged else nics_from_network_info(imported.get("network_info") or ())
    return Instance(
        id=server.id,
        project_id=server.project_id,
        name=server.name,
        hostname=server.hostname,
        ec2_ids=_ec2_ids(server, imported, numbers),
        flavor_name=str(server.flavor.get("name", "")),
        image_id=server.image_id,
        launch_index=server.launch_index,
        availability_zone=server.availability_zone,
        reservation_id=server.reservation_id,
        key=InstanceKey(server.key_name, server.key_type or "ssh", server.public_key) if server.key_name else None,
        user_data=server.user_data,
        metadata=dict(server.metadata_ or {}),
        files=tuple(
            InjectedFile(file["path"], b64decode(file.get("contents") or "")) for file in server.personality or ()
        ),
        security_groups=plugged.security_groups if plugged else given_groups,
        nics=nics,
        root_device_name=server.root_device_name,
        default_ephemeral_device=imported.get("default_ephemeral_device"),
        default_swap_device=imported.get("default_swap_device"),
        block_devices=tuple(_block_device(mapping) for mapping in server.block_devices or ()),
        devices=(*_devices(server), *_tagged_nics(server, nics)),
        dedicated_cpus=tuple(server.dedicated_cpus or ()),
        boot_roles=imported.get("boot_roles") or "",
        password=password,
    )


def _ec2_ids(server: Server, imported: Mapping[str, Any], numbers: Ec2Numbers) -> Ec2Ids:
    given = imported.get("ec2_ids")
    if given is not None:
        return Ec2Ids(**given)

    def image(prefix: str, image_id: str | None) -> str | None:
        return ec2_text(prefix, numbers.number(IMAGE, image_id)) if image_id else None

    return Ec2Ids(
        instance_id=ec2_text("i", numbers.number(INSTANCE, server.id)),
        ami_id=image("ami", server.image_id),
        kernel_id=image("aki", server.kernel_id),
        ramdisk_id=image("ari", server.ramdisk_id),
    )


def _block_device(mapping: Mapping[str, Any]) -> BlockDevice:
    return BlockDevice(
        source_type=mapping.get("source_type"),
        destination_type=mapping.get("destination_type"),
        device_name=mapping.get("device_name"),
        guest_format=mapping.get("guest_format"),
    )


def _devices(server: Server) -> Iterable[TaggedDevice]:
    for device in server.devices or ():
        tags = device.get("tags")
        yield TaggedDevice(
            type=device["type"],
            bus=device.get("bus"),
            address=device.get("address"),
            tags=None if tags is None else tuple(tags),
            mac_address=device.get("mac"),
            vlan=device.get("vlan"),
            vf_trusted=bool(device.get("vf_trusted")),
            serial=device.get("serial"),
            path=device.get("path"),
            share_id=device.get("share_id"),
            share_tag=device.get("share_tag"),
        )


def _tagged_nics(server: Server, nics: Iterable[Nic]) -> Iterable[TaggedDevice]:
    """Ports that were given a tag and that nobody has told a place on a bus: nova says `none` for it."""
    told = {device.get("mac") for device in server.devices or ()}
    tags: Mapping[str, str] = server.nic_tags or {}
    for nic in nics:
        if nic.port_id in tags and nic.mac_address not in told:
            yield TaggedDevice(type="nic", mac_address=nic.mac_address, tags=(tags[nic.port_id],))
