"""The creation of servers, in one transaction: lookups of everything that the request names, the host, the ports."""

from __future__ import annotations

import re
import secrets
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.compute import DRIVER_EXTRA_SPEC, ComputeHost, Flavor, NewServer, NicRequest, Requester
from openimds.resources.errors import BadRequest, QuotaExceeded
from openimds.resources.instance import EC2_IMAGE, EC2_INSTANCE
from openimds.store.compute.agent_reports import set_fault
from openimds.store.compute.flavors import flavor_value
from openimds.store.compute.interfaces import plug, resolve_nics, resolve_security_groups
from openimds.store.compute.keypairs import named_keypair
from openimds.store.compute.scheduling import compute_hosts, schedule
from openimds.store.ec2_ids import assign_ec2_numbers
from openimds.store.models.compute import Flavor as FlavorRow
from openimds.store.models.compute import Keypair, Server
from openimds.store.models.image import Image

HOSTNAME_MAX_CHARS = 63


def nth(name: str, index: int, count: int) -> str:
    """`web` for a single server; `web-1`, `web-2` … for several of one request."""
    return name if count == 1 else f"{name}-{index + 1}"


def hostname_from(name: str, server_id: str) -> str:
    """`My web.1` → `my-web-1`, as in Nova. A name without any permitted character gives `server-<id>`."""
    dashed = re.sub(r"[\s_.]", "-", name)
    plain = re.sub(r"[^\w-]+", "", dashed, flags=re.ASCII).lower()
    return plain[:HOSTNAME_MAX_CHARS].strip("-") or f"server-{server_id}"


def new_reservation_id() -> str:
    """A random id such as `r-x1y2z3ab`."""
    alphabet = string.ascii_lowercase + string.digits
    return "r-" + "".join(secrets.choice(alphabet) for _ in range(8))


MAX_SERVERS_PER_PROJECT = 10_000
ROOT_DEVICE = "/dev/vda"

NO_HOST = (
    "No valid host was found. No compute host that is alive fits the request: "
    "check `openstack compute service list`, and the requested availability zone and host."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resolved:
    """The rows that a request names."""

    flavor: Flavor
    image: Image | None
    kernel_id: str | None
    ramdisk_id: str | None
    keypair: Keypair | None
    nics: list[NicRequest]
    security_groups: list[dict[str, str]]


def create_servers(
    session: Session, new: NewServer, requester: Requester, now: datetime, agent_down_after: timedelta
) -> list[Server]:
    """Creates all servers of a request, or none. Raises BadRequest, NotFound, Conflict or QuotaExceeded.

    Without a matching host the servers are created in ERROR with a fault, as in Nova.
    """
    caller = requester.caller
    requester.authorize("os_compute_api:servers:create", requester.project_id)
    resolved = _resolve(session, new, requester, caller, now)
    _check_quota(session, requester.project_id, new.max_count)
    hosts = compute_hosts(session, agent_down_after)
    _check_zone(hosts, new.availability_zone)
    chosen = schedule(hosts, new.max_count, zone=new.availability_zone, name=new.host)
    reservation_id = new_reservation_id()
    made = []
    for index in range(new.max_count):
        server = _row(new, resolved, requester, index, now)
        server.reservation_id = reservation_id
        if chosen:
            _place(session, caller, server, chosen[index], resolved.nics, now)
        else:
            set_fault(server, NO_HOST, now)
        made.append(server)
    session.add_all(made)
    session.flush()
    assign_ec2_numbers(session, EC2_INSTANCE, [server.id for server in made])
    images = (made[0].image_id, made[0].kernel_id, made[0].ramdisk_id)
    assign_ec2_numbers(session, EC2_IMAGE, [image_id for image_id in dict.fromkeys(images) if image_id])
    return made


def image_for_server(session: Session, image_id: str, requester: Requester, flavor: Mapping[str, Any]) -> Image:
    """The image. Raises BadRequest if the project may not boot it or the flavor is too small."""
    image = _visible_image(session, image_id, requester)
    if image is None:
        raise BadRequest("imageRef", "imageRef: Can not find requested image")
    if image.status != "active":
        raise BadRequest("imageRef", f"imageRef: Image {image_id} is not active.")
    if image.min_ram_mib > flavor["ram"]:
        raise BadRequest("flavorRef", "flavorRef: Flavor's memory is too small for requested image.")
    if flavor["disk"] and image.min_disk_gib > flavor["disk"]:
        raise BadRequest("flavorRef", "flavorRef: Flavor's disk is smaller than the minimum size of the image.")
    return image


def part_of_image(session: Session, image: Image, name: str, requester: Requester) -> str | None:
    """The image id in the property `kernel_id` or `ramdisk_id` of an image. The property is free text, so only the UUID of
    an image that this project may boot has effect.
    """
    try:
        part = _visible_image(session, str(uuid.UUID(image.properties.get(name, ""))), requester)
    except ValueError:
        return None
    return part.id if part else None


def image_block_devices(image_id: str | None, flavor: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Nova's block device mappings of a server without volumes: the root disk of the image, ephemeral disk, swap."""
    found: list[dict[str, Any]] = []
    local = {"destination_type": "local", "delete_on_termination": True}
    if image_id:
        found.append(
            {**local, "source_type": "image", "boot_index": 0, "image_id": image_id, "device_name": ROOT_DEVICE}
        )
    letters = iter("bcdef")
    for size, guest_format in ((flavor["ephemeral"], None), (flavor["swap"], "swap")):
        if size:
            device = f"/dev/vd{next(letters)}"
            blank = {"source_type": "blank", "boot_index": -1, "volume_size": size}
            found.append({**local, **blank, "guest_format": guest_format, "device_name": device})
    return found


_FOR_EVERYBODY = frozenset({"public", "community"})


def _visible_image(session: Session, image_id: str, requester: Requester) -> Image | None:
    image = session.get(Image, image_id)
    if image is None or not (
        requester.is_admin or image.owner == requester.project_id or image.visibility in _FOR_EVERYBODY
    ):
        return None
    return image


def _resolve(session: Session, new: NewServer, requester: Requester, caller: Caller, now: datetime) -> _Resolved:
    flavor = _flavor(session, new.flavor_id, requester)
    image = image_for_server(session, new.image_id, requester, flavor.embedded()) if new.image_id else None
    groups = resolve_security_groups(session, caller, new.security_groups, now)
    return _Resolved(
        flavor=flavor,
        image=image,
        kernel_id=part_of_image(session, image, "kernel_id", requester) if image else None,
        ramdisk_id=part_of_image(session, image, "ramdisk_id", requester) if image else None,
        keypair=named_keypair(session, requester.user_id, new.key_name) if new.key_name is not None else None,
        nics=resolve_nics(session, caller, new.nics, project_id=requester.project_id, optional=new.nics_optional),
        security_groups=[{"id": group.id, "name": group.name} for group in groups],
    )


def _flavor(session: Session, flavor_id: str, requester: Requester) -> Flavor:
    """The flavor. A private flavor exists for administrators only. Raises BadRequest."""
    flavor = session.get(FlavorRow, flavor_id)
    if flavor is None or not (flavor.is_public or requester.is_admin):
        raise BadRequest("flavorRef", f"flavorRef: Flavor {flavor_id} could not be found.")
    return flavor_value(flavor)


def _check_quota(session: Session, project_id: str, more: int) -> None:
    used = session.scalar(sa.select(sa.func.count()).select_from(Server).where(Server.project_id == project_id))
    if (used or 0) + more > MAX_SERVERS_PER_PROJECT:
        raise QuotaExceeded(
            f"Quota exceeded for instances: Requested {more}, but already used {used} of {MAX_SERVERS_PER_PROJECT}."
        )


def _check_zone(hosts: list[ComputeHost], zone: str | None) -> None:
    if zone is not None and hosts and zone not in {host.zone for host in hosts}:
        raise BadRequest("availability_zone", "availability_zone: The requested availability zone is not available")


def _row(new: NewServer, found: _Resolved, requester: Requester, index: int, now: datetime) -> Server:
    server_id = str(uuid.uuid4())
    name = nth(new.name, index, new.max_count)
    hostname = nth(new.hostname, index, new.max_count) if new.hostname else hostname_from(name, server_id)
    flavor = found.flavor.embedded()
    return Server(
        id=server_id,
        project_id=requester.project_id,
        user_id=requester.user_id,
        name=name,
        hostname=hostname,
        description=new.description,
        image_id=found.image.id if found.image else None,
        flavor=flavor,
        availability_zone=new.availability_zone,
        pinned_zone=new.availability_zone,
        key_name=found.keypair.name if found.keypair else None,
        key_type=found.keypair.type if found.keypair else None,
        public_key=found.keypair.public_key if found.keypair else None,
        user_data=new.user_data,
        metadata_=dict(new.metadata),
        personality=[dict(item) for item in new.personality],
        security_groups=found.security_groups,
        config_drive=new.config_drive,
        launch_index=index,
        root_device_name=ROOT_DEVICE,
        kernel_id=found.kernel_id,
        ramdisk_id=found.ramdisk_id,
        block_devices=image_block_devices(found.image.id if found.image else None, flavor),
        devices=[],
        dedicated_cpus=[],
        nic_order=[],
        ports_of_server=[],
        nic_tags={},
        access_ip_v4=new.access_ip_v4,
        access_ip_v6=new.access_ip_v6,
        tags=list(new.tags),
        locked=False,
        host="",
        driver="netns",
        status="BUILD",
        task_state="scheduling",
        wanted_power_state="running",
        boot_generation=1,
        created_at=now,
        updated_at=now,
    )


def _place(
    session: Session, caller: Caller, server: Server, host: ComputeHost, nics: list[NicRequest], now: datetime
) -> None:
    server.host = host.name
    server.availability_zone = host.zone
    server.driver = str(server.flavor["extra_specs"].get(DRIVER_EXTRA_SPEC) or host.driver)
    server.task_state = "spawning"
    plug(session, caller, server, nics, now)
