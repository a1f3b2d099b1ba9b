from __future__ import annotations

import pytest

from openimds.metadata.ec2 import ec2_document
from openimds.metadata.outcome import MetadataError
from openimds.resources.instance import Ec2Ids, InstanceKey, Nic, NicAddress, NicSubnet

KEY = InstanceKey("mykey", "ssh", "ssh-rsa A")


def text(context, *parts: str) -> str:
    return ec2_document(context, parts).body.decode()


def nic(*addresses: NicAddress) -> Nic:
    subnet = NicSubnet(ip_version=4, cidr="10.0.0.0/24", addresses=addresses)
    return Nic(port_id="p", mac_address="m", vif_type="bridge", device_name="tap", network_id="n", subnets=(subnet,))


@pytest.mark.parametrize(
    ("version", "added"),
    [
        (
            "1.0",
            "ami-id ami-launch-index ami-manifest-path hostname instance-id local-ipv4 public-keys/ reservation-id security-groups",
        ),
        ("2007-01-19", "local-hostname public-hostname public-ipv4"),
        ("2007-08-29", "instance-type"),
        ("2007-12-15", "block-device-mapping/ kernel-id ramdisk-id"),
        ("2008-02-01", "placement/"),
        ("2008-09-01", "instance-action"),
    ],
)
def test_each_version_adds_its_keys(make_context, version: str, added: str) -> None:
    ids = Ec2Ids(instance_id="i-1", kernel_id="aki-1", ramdisk_id="ari-1")
    versions = ["1.0", "2007-01-19", "2007-08-29", "2007-12-15", "2008-02-01", "2008-09-01"]
    place = versions.index(version)
    now, *before = [
        set(text(make_context(ec2_ids=ids, key=KEY), one, "meta-data").split("\n"))
        for one in reversed(versions[max(0, place - 1) : place + 1])
    ]
    assert now.difference(*before) == set(added.split())


def test_listing_is_sorted_and_ends_without_a_newline(make_context) -> None:
    listing = text(make_context(key=KEY), "latest", "meta-data")
    names = listing.split("\n")
    assert names == sorted(names)
    assert "public-keys/" in names
    assert not listing.endswith("\n")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("ami-id", "None"),
        ("ami-launch-index", "0"),
        ("ami-manifest-path", "FIXME"),
        ("hostname", "bare.novalocal"),
        ("local-hostname", "bare.novalocal"),
        ("public-hostname", "bare.novalocal"),
        ("instance-id", "i-00000002"),
        ("instance-type", "m1.small"),
        ("instance-action", "none"),
        ("local-ipv4", "10.9.9.9"),
        ("public-ipv4", ""),
        ("reservation-id", "None"),
        ("security-groups", ""),
        ("placement", "availability-zone"),
        ("placement/availability-zone", "None"),
        ("block-device-mapping", "ami\nephemeral0\nroot\nswap"),
        ("block-device-mapping/root", "/dev/sda1"),
    ],
)
def test_values_of_a_bare_instance(make_context, path: str, expected: str) -> None:
    assert text(make_context(), "latest", "meta-data", *path.split("/")) == expected


def test_public_keys_are_listed_with_their_label(make_context) -> None:
    context = make_context(key=KEY)
    assert text(context, "1.0", "meta-data", "public-keys") == "0=mykey"
    assert text(context, "1.0", "meta-data", "public-keys", "0") == "openssh-key"
    assert text(context, "1.0", "meta-data", "public-keys", "0", "openssh-key") == "ssh-rsa A"
    assert text(context, "1.0", "meta-data", "public-keys", "0", "_name") == "0=mykey"


def test_addresses_are_the_first_of_the_instance(make_context) -> None:
    context = make_context(
        nics=(nic(NicAddress("2001:db8::5")), nic(NicAddress("10.0.0.5"), NicAddress("10.0.0.6", ("203.0.113.7",))))
    )
    assert text(context, "latest", "meta-data", "local-ipv4") == "10.0.0.5"
    assert text(context, "latest", "meta-data", "public-ipv4") == "203.0.113.7"


def test_security_groups_have_one_line_each(make_context) -> None:
    assert (
        text(make_context(security_groups=("default", "web")), "latest", "meta-data", "security-groups")
        == "default\nweb"
    )


def test_user_data_are_served_unchanged(make_context) -> None:
    context = make_context(user_data=b"\x00\xff")
    assert text(context, "latest") == "meta-data/\nuser-data"
    assert ec2_document(context, ("latest", "user-data")).body == b"\x00\xff"
    assert text(make_context(), "latest") == "meta-data/"
    assert text(make_context(user_data=b""), "latest", "user-data") == ""


def test_known_versions_are_readable(make_context) -> None:
    assert text(make_context()).split("\n")[-1] == "latest"


@pytest.mark.parametrize(
    "path",
    [
        "nope",
        "2010-01-01",
        "latest/nope",
        "latest/user-data",
        "latest/meta-data/hostname/x",
        "latest/meta-data/security-groups/default",
        "latest/meta-data/public-keys",
        "latest/meta-data/kernel-id",
        "latest/meta-data/public-keys/0=mykey",
        "latest/meta-data/host",
        "1.0/meta-data/placement",
        "latest/meta-data/_name",
    ],
)
def test_missing_paths_are_404(make_context, path: str) -> None:
    with pytest.raises(MetadataError) as refused:
        ec2_document(make_context(), tuple(path.split("/")))
    assert refused.value.status == 404
