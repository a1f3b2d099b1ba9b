from __future__ import annotations

import pytest

from openimds.metadata.devices import devices_document
from openimds.metadata.paths import EPOXY, NEWTON_ONE, OCATA, ROCKY, VICTORIA
from openimds.resources.instance import TaggedDevice

NIC = TaggedDevice(
    type="nic", bus="pci", address="0000:00:03.0", mac_address="fa:16:3e:00:00:01", vlan=7, vf_trusted=True, tags=("a",)
)
UNTAGGED = TaggedDevice(type="nic", bus="pci", address="0000:00:04.0", mac_address="fa:16:3e:00:00:02")
UNTAGGED_VLAN = TaggedDevice(type="nic", mac_address="fa:16:3e:00:00:03", vlan=8)
DISK = TaggedDevice(type="disk", bus="scsi", address="1:0:2:0", serial="s1", path="/dev/sda", tags=("db",))
SHARE = TaggedDevice(type="share", share_id="s", share_tag="t")


def nic(**more: object) -> dict[str, object]:
    place = {"type": "nic", "mac": NIC.mac_address, "bus": "pci", "address": "0000:00:03.0", "tags": ["a"]}
    return more | place


@pytest.mark.parametrize(
    ("version", "expected"),
    [(NEWTON_ONE, nic()), (OCATA, nic(vlan=7)), (ROCKY, nic(vlan=7, vf_trusted=True))],
)
def test_nic_has_the_keys_of_its_version(version: str, expected: dict[str, object]) -> None:
    (document,) = devices_document([NIC], version)
    assert document == expected
    assert list(document) == list(expected)


@pytest.mark.parametrize(("version", "shown"), [(NEWTON_ONE, 0), (OCATA, 1), (ROCKY, 2)])
def test_untagged_nic_is_shown_if_the_version_has_a_key_for_it(version: str, shown: int) -> None:
    assert len(devices_document([UNTAGGED, UNTAGGED_VLAN], version)) == shown


def test_unknown_bus_and_address_are_none() -> None:
    (document,) = devices_document([UNTAGGED_VLAN], ROCKY)
    assert document == {
        "vlan": 8,
        "vf_trusted": False,
        "type": "nic",
        "mac": UNTAGGED_VLAN.mac_address,
        "bus": "none",
        "address": "none",
    }


def test_disk_has_serial_and_path() -> None:
    (document,) = devices_document([DISK], NEWTON_ONE)
    assert list(document.items()) == [
        ("type", "disk"),
        ("serial", "s1"),
        ("path", "/dev/sda"),
        ("bus", "scsi"),
        ("address", "1:0:2:0"),
        ("tags", ["db"]),
    ]


@pytest.mark.parametrize(("version", "shown"), [(VICTORIA, 0), (EPOXY, 1)])
def test_shares_are_shown_from_epoxy_on(version: str, shown: int) -> None:
    assert len(devices_document([SHARE], version)) == shown
