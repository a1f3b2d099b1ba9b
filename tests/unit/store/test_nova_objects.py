from __future__ import annotations

from typing import Any

import pytest

from openimds.store.nova_objects import dedicated_cpus_from_topology, devices_from_metadata


def versioned(name: str, **data: Any) -> dict[str, Any]:
    return {"nova_object.name": name, "nova_object.data": data}


def devices(*entries: dict[str, Any]) -> dict[str, Any]:
    return versioned("InstanceDeviceMetadata", devices=list(entries))


@pytest.mark.parametrize(
    ("bus", "name"),
    [
        ("PCIDeviceBus", "pci"),
        ("USBDeviceBus", "usb"),
        ("SCSIDeviceBus", "scsi"),
        ("IDEDeviceBus", "ide"),
        ("XenDeviceBus", "xen"),
    ],
)
def test_bus_of_a_device_is_decoded(bus: str, name: str) -> None:
    (device,) = devices_from_metadata(devices(versioned("DiskMetadata", bus=versioned(bus, address="0:1"), tags=[])))
    assert device == {"type": "disk", "bus": name, "address": "0:1", "tags": []}


def test_unset_fields_stay_unset() -> None:
    (device,) = devices_from_metadata(devices(versioned("NetworkInterfaceMetadata", mac="fa:16:3e:00:00:01")))
    assert device == {"type": "nic", "mac": "fa:16:3e:00:00:01"}


def test_share_is_decoded() -> None:
    (device,) = devices_from_metadata(devices(versioned("ShareMetadata", share_id="s", tag="t")))
    assert device == {"type": "share", "share_id": "s", "share_tag": "t"}


def test_unknown_devices_and_buses_are_left_out() -> None:
    odd_bus = versioned("DiskMetadata", bus=versioned("NubusDeviceBus"))
    assert devices_from_metadata(devices(versioned("TapeMetadata"), odd_bus)) == []
    assert devices_from_metadata(None) == []


def test_dedicated_cpus_of_all_cells_are_decoded() -> None:
    cells = [versioned("InstanceNUMACell", pcpuset=[5, 1]), versioned("InstanceNUMACell", pcpuset=None)]
    assert dedicated_cpus_from_topology(versioned("InstanceNUMATopology", cells=cells)) == [1, 5]
    assert dedicated_cpus_from_topology(None) == []
