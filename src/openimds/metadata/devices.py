"""`devices` of meta_data.json: what the user tagged, under the name that the guest's hardware has for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openimds.metadata.versions import EPOXY, OCATA, ROCKY, is_since
from openimds.resources.instance import TaggedDevice

_UNKNOWN_PLACE = "none"


def devices_document(devices: Iterable[TaggedDevice], version: str) -> list[dict[str, Any]]:
    """Each device with the attributes that this version has; one that the version cannot show is left out.

    {"vlan": 1007, "vf_trusted": true, "type": "nic", "mac": "fa:16:3e:11:22:33", "bus": "pci",
     "address": "0000:00:03.0", "tags": ["nic1"]}
    """
    documents = []
    for device in devices:
        document = _RENDERERS[device.type](device, version)
        if document is not None:
            documents.append(document | _place(device))
    return documents


def _nic(device: TaggedDevice, version: str) -> dict[str, Any] | None:
    document: dict[str, Any] = {}
    if is_since(version, OCATA) and device.vlan is not None:
        document["vlan"] = device.vlan
    if is_since(version, ROCKY):
        document["vf_trusted"] = device.vf_trusted
    if not document and device.tags is None:
        return None  # it has nothing that this version could tell
    return document | {"type": "nic", "mac": device.mac_address}


def _disk(device: TaggedDevice, _version: str) -> dict[str, Any]:
    named = {"serial": device.serial, "path": device.path}
    return {"type": "disk"} | {name: value for name, value in named.items() if value is not None}


def _share(device: TaggedDevice, version: str) -> dict[str, Any] | None:
    if not is_since(version, EPOXY):
        return None
    return {"type": "share", "share_id": device.share_id, "tag": device.share_tag}


def _place(device: TaggedDevice) -> dict[str, Any]:
    place: dict[str, Any] = {"bus": device.bus or _UNKNOWN_PLACE, "address": device.address or _UNKNOWN_PLACE}
    return place if device.tags is None else place | {"tags": list(device.tags)}


_RENDERERS = {"nic": _nic, "disk": _disk, "share": _share}
