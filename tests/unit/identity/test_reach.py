"""Which networks somebody behind a router may be on."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from openimds.identity.reach import Reach, is_router_interface
from openimds.resources.network import FixedIP, Port, Subnet


def subnet(subnet_id: str, network: str, cidr: str) -> Subnet:
    return Subnet(id=subnet_id, network_id=network, project_id="p", cidr=cidr)


def leg(port_id: str, network: str, *subnet_ids: str, router: str = "r1") -> Port:
    return Port(
        id=port_id,
        network_id=network,
        project_id="p",
        mac_address="fa:16:3e:ff:ff:01",
        fixed_ips=tuple(FixedIP(subnet_id, "-") for subnet_id in subnet_ids),
        device_id=router,
        device_owner="network:router_interface",
    )


SUBNETS = {
    one.id: one
    for one in (
        subnet("a4", "a", "10.0.0.0/24"),
        subnet("a6", "a", "fd00:a::/64"),
        subnet("b4", "b", "10.0.1.0/25"),
        subnet("b-too", "b", "10.0.0.0/24"),
        subnet("link", "c", "169.254.0.0/16"),
    )
}


def reach_of(*legs: Port) -> Reach:
    reach = Reach()
    for one in legs:
        reach.add(one)
    list(reach.know(SUBNETS))
    return reach


LEGS = (leg("11111111-1111-a", "a", "a4", "a6"), leg("22222222-2222-b", "b", "b4"), leg("3", "c", "link"))


@pytest.mark.parametrize(
    ("address", "device", "networks"),
    [
        ("10.0.0.7", "", {"a"}),  # and not b, whose subnet that the router is not on has it too
        ("10.0.0.0", "", {"a"}),
        ("10.0.0.255", "", {"a"}),
        ("10.0.1.127", "", {"b"}),
        ("10.0.1.128", "", {"a", "b", "c"}),  # behind a guest, by a static route
        ("fd00:a::7", "", {"a"}),
        ("fd00:b::7", "", {"a", "b", "c"}),
        ("::a00:7", "", {"a", "b", "c"}),  # the same number in the other version
        ("169.254.3.4", "", {"c"}),
        ("fe80::1", "", {"a", "b", "c"}),
        ("fe80::1", "qr-22222222-22", {"b"}),
        ("fe80::1", "qr-33333333-33", set()),
    ],
)
def test_networks(address: str, device: str, networks: set[str]) -> None:
    assert reach_of(*LEGS).networks("r1", ip_address(address), device) == networks


def test_another_router_has_no_networks() -> None:
    assert reach_of(*LEGS).networks("r2", ip_address("10.0.0.7")) == frozenset()


def test_a_leg_that_goes_is_forgotten_and_its_gateway_was_never_one() -> None:
    gateway = Port(
        id="g", network_id="ext", project_id="p", mac_address="-", device_id="r1", device_owner="network:router_gateway"
    )
    assert not is_router_interface(gateway)
    reach = reach_of(*LEGS, gateway)
    reach.drop(gateway)
    reach.drop(LEGS[0])
    assert reach.networks("r1", ip_address("10.0.0.7")) == {"b", "c"}
    reach.drop(LEGS[1])
    reach.drop(LEGS[2])
    assert reach.networks("r1", ip_address("10.0.0.7")) == frozenset()


def test_subnets_that_come_or_go_concern_their_routers() -> None:
    reach = reach_of(*LEGS, leg("4", "b", "b4", router="r2"))
    assert list(reach.know(SUBNETS)) == []
    assert list(reach.know(dict(SUBNETS))) == []
    assert list(reach.know({one: value for one, value in SUBNETS.items() if one != "a6"})) == ["r1"]
    assert reach.networks("r1", ip_address("fd00:a::7")) == {"a", "b", "c"}
    assert sorted(reach.know({one: value for one, value in SUBNETS.items() if one != "b4"})) == ["r1", "r2"]
