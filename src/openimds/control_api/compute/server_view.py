"""ServerRecord to the JSON that Nova shows at a microversion. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from openimds.control_api.compute.microversions import Microversion
from openimds.control_api.compute.protocols import ComputeService
from openimds.resources.compute import ServerAddress, ServerRecord

WITH_PROGRESS = frozenset({"ACTIVE", "BUILD", "REBUILD"})


def brief(server: ServerRecord, service: ComputeService) -> dict[str, Any]:
    return {"id": server.id, "name": server.name, "links": service.links("servers", server.id)}


def full(
    server: ServerRecord, service: ComputeService, version: Microversion, *, admin: bool, detail: bool = False
) -> dict[str, Any]:
    """All attributes of a server. `detail` is True for an item of a list.

    Such an item has fewer attributes: Nova leaves those out that need a query per server.
    """
    shown = {
        **brief(server, service),
        "status": server.status,
        "tenant_id": server.project_id,
        "user_id": server.user_id,
        "metadata": dict(server.metadata),
        "hostId": host_id(server),
        "image": _image(server, service),
        "flavor": _flavor(server, service, version),
        "created": instant(server.created_at),
        "updated": instant(server.updated_at),
        "addresses": addresses(server.addresses),
        "accessIPv4": server.access_ip_v4 or "",
        "accessIPv6": server.access_ip_v6 or "",
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": server.availability_zone or "",
        "config_drive": "True" if server.config_drive else "",
        "key_name": server.key_name,
        "OS-SRV-USG:launched_at": _launched(server.launched_at),
        "OS-SRV-USG:terminated_at": None,
        "security_groups": [{"name": name} for name in server.security_group_names],
        "OS-EXT-STS:task_state": server.task_state,
        "OS-EXT-STS:vm_state": server.vm_state,
        "OS-EXT-STS:power_state": server.power_state,
        "os-extended-volumes:volumes_attached": [],
    }
    if server.status in WITH_PROGRESS:
        shown["progress"] = 0
    if server.fault is not None and server.status == "ERROR":
        shown["fault"] = dict(server.fault)
    shown |= _newer(server, version, detail=detail)
    if admin:
        shown |= _for_admins(server, version)
    return shown


def addresses(found: Sequence[ServerAddress]) -> dict[str, list[dict[str, Any]]]:
    """Addresses by network name, in the order of the NICs."""
    by_network: dict[str, list[dict[str, Any]]] = {}
    for address in found:
        by_network.setdefault(address.network_name, []).append(
            {
                "version": address.version,
                "addr": address.address,
                "OS-EXT-IPS:type": "floating" if address.floating else "fixed",
                "OS-EXT-IPS-MAC:mac_addr": address.mac_address,
            }
        )
    return by_network


def host_id(server: ServerRecord) -> str:
    """The hostId, a hash. Two servers of one project have the same hostId if they are on the same host."""
    if not server.host:
        return ""
    return hashlib.sha224((server.project_id + server.host).encode()).hexdigest()


def instant(at: datetime) -> str:
    """`2026-11-21T10:00:00Z`"""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _launched(at: datetime | None) -> str | None:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f") if at else None


def _image(server: ServerRecord, service: ComputeService) -> dict[str, Any] | str:
    if server.image_id is None:
        return ""
    link = {"rel": "bookmark", "href": service.bookmark("images", server.image_id)}
    return {"id": server.image_id, "links": [link]}


def _flavor(server: ServerRecord, service: ComputeService, version: Microversion) -> dict[str, Any]:
    kept = server.flavor
    if version < (2, 47):
        flavor_id = kept.get("id") or kept["name"]
        return {"id": flavor_id, "links": [{"rel": "bookmark", "href": service.bookmark("flavors", flavor_id)}]}
    # An imported instance has only the name of its flavor.
    sizes = {name: kept.get(name, 0) for name in ("vcpus", "ram", "disk", "ephemeral", "swap")}
    return {**sizes, "original_name": kept["name"], "extra_specs": dict(kept.get("extra_specs") or {})}


def _newer(server: ServerRecord, version: Microversion, *, detail: bool) -> dict[str, Any]:
    """Attributes of later microversions that all callers see."""
    parts: tuple[tuple[Microversion, dict[str, Any]], ...] = (
        (Microversion(2, 9), {"locked": server.locked}),
        (Microversion(2, 19), {"description": server.description}),
        (Microversion(2, 26), {"tags": list(server.tags)}),
        (Microversion(2, 63), {"trusted_image_certificates": None}),
        (Microversion(2, 71), {} if detail else {"server_groups": []}),
        (Microversion(2, 73), {"locked_reason": None}),
        (Microversion(2, 90), {"OS-EXT-SRV-ATTR:hostname": server.hostname}),
        (Microversion(2, 96), {"pinned_availability_zone": server.pinned_zone}),
    )
    return {name: value for since, fields in parts if version >= since for name, value in fields.items()}


def _for_admins(server: ServerRecord, version: Microversion) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "OS-EXT-SRV-ATTR:host": server.host or None,
        "OS-EXT-SRV-ATTR:instance_name": f"instance-{server.ec2_number:08x}",
        "OS-EXT-SRV-ATTR:hypervisor_hostname": server.host or None,
    }
    if version >= (2, 3):
        shown |= {
            "OS-EXT-SRV-ATTR:reservation_id": server.reservation_id,
            "OS-EXT-SRV-ATTR:launch_index": server.launch_index,
            "OS-EXT-SRV-ATTR:hostname": server.hostname,
            "OS-EXT-SRV-ATTR:kernel_id": server.kernel_id or "",
            "OS-EXT-SRV-ATTR:ramdisk_id": server.ramdisk_id or "",
            "OS-EXT-SRV-ATTR:root_device_name": server.root_device_name,
            "OS-EXT-SRV-ATTR:user_data": _encoded(server.user_data),
        }
    if version >= (2, 16):
        shown["host_status"] = "UP" if server.host else ""
    return shown


def _encoded(user_data: bytes | None) -> str | None:
    return base64.b64encode(user_data).decode() if user_data is not None else None
