from __future__ import annotations

from openimds.metadata.devices import block_device_mapping
from openimds.resources.instance import BlockDevice


def blank(name: str | None, guest_format: str | None = None) -> BlockDevice:
    return BlockDevice(source_type="blank", destination_type="local", device_name=name, guest_format=guest_format)


def volume(name: str | None) -> BlockDevice:
    return BlockDevice(source_type="volume", destination_type="volume", device_name=name)


def test_mapping_without_a_root_device_is_novas_default(make_context) -> None:
    mapping = block_device_mapping(make_context(block_devices=(volume("/dev/vdz"),)).instance)
    assert mapping == {"ami": "sda1", "ephemeral0": "sda2", "root": "/dev/sda1", "swap": "sda3"}


def test_default_devices_are_mapped(make_context) -> None:
    instance = make_context(
        root_device_name="/dev/vda", default_ephemeral_device="/dev/vdb", default_swap_device="/dev/vdc"
    ).instance
    assert block_device_mapping(instance) == {
        "ami": "vda",
        "root": "/dev/vda",
        "ephemeral0": "/dev/vdb",
        "swap": "/dev/vdc",
    }


def test_mapped_devices_replace_the_defaults_and_are_numbered(make_context) -> None:
    instance = make_context(
        root_device_name="/dev/vda",
        default_ephemeral_device="/dev/old",
        block_devices=(
            BlockDevice(source_type="image", destination_type="local", device_name="/dev/vda"),
            volume("/dev/vdf"),
            volume("/dev/vde"),
            volume(None),
            blank("/dev/vdb"),
            blank("/dev/vdc"),
            blank("/dev/vds", "swap"),
            blank("/dev/vdt", "swap"),
            BlockDevice(source_type="blank", destination_type="volume", device_name="/dev/vdg"),
        ),
    ).instance
    assert block_device_mapping(instance) == {
        "ami": "vda",
        "root": "/dev/vda",
        "ephemeral0": "/dev/vdb",
        "ephemeral1": "/dev/vdc",
        "swap": "/dev/vdt",
        "ebs0": None,
        "ebs1": "/dev/vde",
        "ebs2": "/dev/vdf",
        "ebs3": "/dev/vdg",
    }


def test_mapping_with_only_a_root_device(make_context) -> None:
    assert block_device_mapping(make_context(root_device_name="/dev/sda").instance) == {
        "ami": "sda",
        "root": "/dev/sda",
    }
