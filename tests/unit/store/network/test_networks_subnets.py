"""Subnets: defaults, errors, and the addresses of a deleted subnet."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from tests.callers import network_caller

from openimds.resources.errors import BadRequest, Conflict, OpenimdsError

NO = Conflict
BAD = BadRequest


@pytest.mark.parametrize(
    ("cidr", "gateway", "pools"),
    [
        ("192.168.40.0/24", "192.168.40.1", [("192.168.40.2", "192.168.40.254")]),
        ("10.0.0.0/30", "10.0.0.1", [("10.0.0.2", "10.0.0.2")]),
        ("2001:db8::/64", "2001:db8::1", [("2001:db8::2", "2001:db8::ffff:ffff:ffff:ffff")]),
    ],
)
def test_subnet_has_default_gateway_and_pools(
    cloud: Any, cidr: str, gateway: str, pools: list[tuple[str, str]]
) -> None:
    _, subnet = cloud.net(cidr)
    assert subnet["gateway_ip"] == gateway
    assert subnet["allocation_pools"] == [{"start": start, "end": end} for start, end in pools]


def test_gateway_in_the_middle_splits_the_pools(cloud: Any) -> None:
    _, subnet = cloud.net("10.0.0.0/29", gateway_ip="10.0.0.3")
    assert subnet["allocation_pools"] == [
        {"start": "10.0.0.1", "end": "10.0.0.2"},
        {"start": "10.0.0.4", "end": "10.0.0.6"},
    ]


def test_subnet_without_gateway_has_one_pool(cloud: Any) -> None:
    _, subnet = cloud.net("10.0.0.0/29", gateway_ip=None)
    assert subnet["gateway_ip"] is None
    assert subnet["allocation_pools"] == [{"start": "10.0.0.1", "end": "10.0.0.6"}]


@pytest.mark.parametrize(
    ("wanted", "error", "field"),
    [
        ({"cidr": "10.0.0.128/25"}, BAD, "cidr"),
        ({"cidr": "10.0.0.0/16"}, BAD, "cidr"),
        ({"cidr": "10.1.0.0/24", "ip_version": 6}, BAD, "cidr"),
        ({"cidr": "10.1.0.0/31"}, BAD, "cidr"),
        ({"cidr": "224.0.0.0/24"}, BAD, "cidr"),
        ({"cidr": "127.0.0.0/24"}, BAD, "cidr"),
        ({"cidr": "0.0.0.0/8"}, BAD, "cidr"),
        ({"cidr": "10.1.0.0/24", "gateway_ip": "10.2.0.1"}, BAD, "gateway_ip"),
        ({"cidr": "10.1.0.0/24", "gateway_ip": "10.1.0.255"}, BAD, "gateway_ip"),
        ({"cidr": "10.1.0.0/24", "gateway_ip": "2001:db8::1"}, BAD, "gateway_ip"),
        ({"cidr": "10.1.0.0/24", "allocation_pools": [{"start": "10.1.0.9", "end": "10.1.0.5"}]}, BAD, "allocation_pools"),
        ({"cidr": "10.1.0.0/24", "allocation_pools": [{"start": "10.1.0.9", "end": "10.1.1.5"}]}, BAD, "allocation_pools"),
        ({"cidr": "10.1.0.0/24", "allocation_pools": [{"start": "10.1.0.1", "end": "10.1.0.5"}]}, NO, None),
        ({"cidr": "10.1.0.0/24", "ipv6_ra_mode": "slaac"}, BAD, "ipv6_ra_mode"),
        ({"cidr": "2001:db8::/80", "ipv6_address_mode": "slaac"}, BAD, "cidr"),
        ({"cidr": "2001:db8::/64", "ipv6_address_mode": "slaac", "enable_dhcp": False}, BAD, "enable_dhcp"),
        (
            {"cidr": "2001:db8::/64", "ipv6_address_mode": "slaac", "ipv6_ra_mode": "dhcpv6-stateful"},
            BAD,
            "ipv6_ra_mode",
        ),
        ({"cidr": "10.1.0.0/24", "dns_nameservers": ["2001:db8::53"]}, BAD, "dns_nameservers"),
        (
            {"cidr": "10.1.0.0/24", "host_routes": [{"destination": "2001:db8::/64", "nexthop": "10.1.0.1"}]},
            BAD,
            "host_routes",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_invalid_requests_are_refused(
    cloud: Any, wanted: dict[str, Any], error: type[OpenimdsError], field: str | None
) -> None:
    network, _ = cloud.net("10.0.0.0/24")
    with pytest.raises(error) as caught:
        cloud.make("subnet", network_id=network["id"], **wanted)
    if field:
        assert isinstance(caught.value, BadRequest)
        assert caught.value.field == field
        assert field in caught.value.message
    assert len(cloud.show("network", network["id"])["subnets"]) == 1


def test_overlapping_pools_are_a_conflict(cloud: Any) -> None:
    network = cloud.make("network", name="n")
    pools = [{"start": "10.1.0.5", "end": "10.1.0.9"}, {"start": "10.1.0.9", "end": "10.1.0.12"}]
    with pytest.raises(Conflict, match="overlapping allocation pools"):
        cloud.make("subnet", network_id=network["id"], cidr="10.1.0.0/24", allocation_pools=pools)


def test_same_range_on_another_network_is_accepted(cloud: Any, stranger: Any) -> None:
    _, one = cloud.net("10.0.0.0/24")
    _, other = stranger.net("10.0.0.0/24")
    assert one["cidr"] == other["cidr"]


def test_update_changes_the_given_attributes(cloud: Any) -> None:
    _, subnet = cloud.net("10.0.0.0/24")
    pools = [{"start": "10.0.0.100", "end": "10.0.0.200"}]
    changed = cloud.change(
        "subnet",
        subnet["id"],
        name="renamed",
        dns_nameservers=["9.9.9.9"],
        host_routes=[{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}],
        allocation_pools=pools,
        gateway_ip="10.0.0.254",
    )
    assert changed["name"] == "renamed"
    assert changed["gateway_ip"] == "10.0.0.254"
    assert changed["allocation_pools"] == pools
    assert changed["revision_number"] > subnet["revision_number"]


def test_gateway_address_of_a_router_cannot_be_changed(cloud: Any) -> None:
    _, subnet = cloud.net("10.0.0.0/24")
    router = cloud.make("router", name="r")
    cloud.network.add_router_interface(cloud.caller, router["id"], {"subnet_id": subnet["id"]})
    with pytest.raises(Conflict, match="already in use by port"):
        cloud.change("subnet", subnet["id"], gateway_ip="10.0.0.254")


def test_delete_in_use_is_a_conflict_unless_only_dhcp_ports_use_it(cloud: Any, operator: Any) -> None:
    network, subnet = cloud.net("10.0.0.0/24")
    dhcp = operator.make("port", network_id=network["id"], device_owner="network:dhcp")
    port = cloud.make("port", network_id=network["id"], name="p")
    with pytest.raises(Conflict, match="have an IP allocation"):
        cloud.remove("subnet", subnet["id"])
    cloud.remove("port", port["id"])
    cloud.remove("subnet", subnet["id"])
    assert operator.show("port", dhcp["id"])["fixed_ips"] == []
    assert cloud.show("network", network["id"])["subnets"] == []


def test_existing_ports_get_slaac_addresses_of_a_new_subnet(cloud: Any) -> None:
    network, _ = cloud.net("10.0.0.0/24")
    port = cloud.make("port", network_id=network["id"], mac_address=None, name="p")
    v6 = cloud.make(
        "subnet", network_id=network["id"], cidr="2001:db8::/64", ipv6_address_mode="slaac", ipv6_ra_mode="slaac"
    )
    octets = port["mac_address"].split(":")
    expected = f"2001:db8::f816:3eff:fe{octets[3]}:{octets[4]}{octets[5]}"
    later = cloud.show("port", port["id"])
    assert [ip["subnet_id"] for ip in later["fixed_ips"]] == [port["fixed_ips"][0]["subnet_id"], v6["id"]]
    assert ip_address(later["fixed_ips"][1]["ip_address"]) == ip_address(expected)
    cloud.remove("subnet", v6["id"])  # an address that the guest generates itself does not keep the subnet
    assert len(cloud.show("port", port["id"])["fixed_ips"]) == 1


def test_subnets_of_another_project_are_not_found(cloud: Any, stranger: Any) -> None:
    network, subnet = cloud.net()
    for call in (
        lambda: stranger.make("subnet", network_id=network["id"], cidr="10.9.0.0/24"),
        lambda: stranger.show("subnet", subnet["id"]),
        lambda: stranger.change("subnet", subnet["id"], name="mine"),
        lambda: stranger.remove("subnet", subnet["id"]),
    ):
        with pytest.raises(OpenimdsError, match="could not be found"):
            call()


def test_administrators_subnet_belongs_to_the_project_of_the_network(cloud: Any) -> None:
    network = cloud.make("network", name="n")
    admin = cloud.as_(network_caller("admin", "admin"))
    assert admin.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")["project_id"] == network["project_id"]
