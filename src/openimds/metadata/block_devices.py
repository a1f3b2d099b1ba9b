"""The EC2 tree's block-device-mapping: EC2's names for the devices that the instance has."""

from __future__ import annotations

from openimds.resources.instance import BlockDevice, Instance

_WITHOUT_ROOT_DEVICE = {"ami": "sda1", "ephemeral0": "sda2", "root": "/dev/sda1", "swap": "sda3"}
"""What EC2 images of 2008 expected; told to an instance of which no root device is known."""


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
