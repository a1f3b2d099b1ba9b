"""`devices` of meta_data.json (tagged devices by bus address), and block-device-mapping of the EC2 tree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openimds.metadata.paths import EPOXY, OCATA, ROCKY
from openimds.resources.instance import BlockDevice, Instance, TaggedDevice

_UNKNOWN_BUS = "none"


def devices_document(devices: Iterable[TaggedDevice], version: str) -> list[dict[str, Any]]:
    """Returns each device with the attributes of this version. A device without any of them is left out.

    {"vlan": 1007, "vf_trusted": true, "type": "nic", "mac": "fa:16:3e:11:22:33", "bus": "pci",
     "address": "0000:00:03.0", "tags": ["nic1"]}
    """
    documents = []
    for device in devices:
        document = _RENDERERS[device.type](device, version)
        if document is not None:
            documents.append(document | _bus_address(device))
    return documents


def _nic(device: TaggedDevice, version: str) -> dict[str, Any] | None:
    document: dict[str, Any] = {}
    if version >= OCATA and device.vlan is not None:
        document["vlan"] = device.vlan
    if version >= ROCKY:
        document["vf_trusted"] = device.vf_trusted
    if not document and device.tags is None:
        return None
    return document | {"type": "nic", "mac": device.mac_address}


def _disk(device: TaggedDevice, _version: str) -> dict[str, Any]:
    named = {"serial": device.serial, "path": device.path}
    return {"type": "disk"} | {name: value for name, value in named.items() if value is not None}


def _share(device: TaggedDevice, version: str) -> dict[str, Any] | None:
    if version < EPOXY:
        return None
    return {"type": "share", "share_id": device.share_id, "tag": device.share_tag}


def _bus_address(device: TaggedDevice) -> dict[str, Any]:
    location: dict[str, Any] = {"bus": device.bus or _UNKNOWN_BUS, "address": device.address or _UNKNOWN_BUS}
    return location if device.tags is None else location | {"tags": list(device.tags)}


_RENDERERS = {"nic": _nic, "disk": _disk, "share": _share}


_WITHOUT_ROOT_DEVICE = {"ami": "sda1", "ephemeral0": "sda2", "root": "/dev/sda1", "swap": "sda3"}
"""Nova's default mapping, in the device names of EC2 images of 2008, for an instance without a known root device."""


def block_device_mapping(instance: Instance) -> dict[str, str | None]:
    """{"ami": "vda", "root": "/dev/vda", "ephemeral0": "/dev/vdb", "swap": "/dev/vdc", "ebs0": "/dev/vdd"}"""
    root = instance.root_device_name
    if root is None:
        return dict(_WITHOUT_ROOT_DEVICE)
    mapping: dict[str, str | None] = {"ami": root.removeprefix("/dev/"), "root": root}
    if instance.default_ephemeral_device:
        mapping["ephemeral0"] = instance.default_ephemeral_device
    if instance.default_swap_device:
        mapping["swap"] = instance.default_swap_device
    volumes = [device.device_name for device in instance.block_devices if device.destination_type == "volume"]
    mapping |= _numbered("ebs", sorted(volumes, key=lambda name: (name is not None, name or "")))
    blanks = [device for device in instance.block_devices if _is_local_blank(device)]
    swaps = [device.device_name for device in blanks if device.guest_format == "swap"]
    if swaps:
        mapping["swap"] = swaps[-1]
    return mapping | _numbered("ephemeral", [device.device_name for device in blanks if device.guest_format != "swap"])


def _is_local_blank(device: BlockDevice) -> bool:
    return device.source_type == "blank" and device.destination_type != "volume"


def _numbered(name: str, devices: list[str | None]) -> dict[str, str | None]:
    return {f"{name}{number}": device for number, device in enumerate(devices)}
