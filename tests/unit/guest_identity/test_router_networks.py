"""Which networks somebody behind a router may be on."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from tests import builders

from openimds.guest_identity.router_networks import RouterNetworks, is_router_interface
from openimds.resources.network import FixedIP, Port, Subnet

GATEWAY = "192.0.2.1"


def subnet(subnet_id: str, network: str, cidr: str, *, project: str = "p", gateway: str | None = None) -> Subnet:
    return builders.subnet(subnet_id, cidr, network=network, project_id=project, gateway_ip=gateway)


def leg(port_id: str, network: str, *subnet_ids: str, router: str = "r1") -> Port:
    fixed_ips = tuple(FixedIP(subnet_id, GATEWAY) for subnet_id in subnet_ids)
    return builders.router_interface(port_id, router, network, fixed_ips=fixed_ips)


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


def reach_of(*legs: Port) -> RouterNetworks:
    reach = RouterNetworks()
    for one in legs:
        reach.add(one)
    reach.know(SUBNETS)
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


@pytest.mark.parametrize(("gateway", "counts"), [("192.0.2.9", False), (None, False), (GATEWAY, True)])
def test_interface_on_another_projects_network_counts_only_as_its_gateway(gateway: str | None, counts: bool) -> None:
    """A member attaches its router to a shared network and leads a guest's address to itself by an extra route."""
    subnets = SUBNETS | {"a4": subnet("a4", "a", "10.0.0.0/24", project="other", gateway=gateway)}
    subnets |= {"a6": subnet("a6", "a", "fd00:a::/64", project="other")}
    reach = RouterNetworks()
    for one in LEGS:
        reach.add(one)
    reach.know(subnets)
    shared = {"a"} if counts else set()
    assert reach.networks("r1", ip_address("10.0.0.7")) == shared
    assert reach.networks("r1", ip_address("10.9.0.7")) == {"b", "c"} | shared  # on a subnet that the router is not on
    assert reach.networks("r1", ip_address("fe80::1"), "qr-11111111-11") == shared
    assert reach.networks("r1", ip_address("fd00:a::7")) == set()


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
    assert reach.know(SUBNETS) == set()
    assert reach.know(dict(SUBNETS)) == set()
    assert reach.know({one: value for one, value in SUBNETS.items() if one != "a6"}) == {"r1"}
    assert reach.networks("r1", ip_address("fd00:a::7")) == {"a", "b", "c"}
    other_gateway = SUBNETS | {"b4": subnet("b4", "b", "10.0.1.0/25", gateway=GATEWAY)}
    assert reach.know(other_gateway) == {"r1", "r2"}
    assert reach.know({one: value for one, value in SUBNETS.items() if one != "b4"}) == {"r1", "r2"}


CIDRS: tuple[str, ...] = (
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.9/24",
    "10.0.0.128/25",
    "10.0.0.7/32",
    "255.255.255.255/32",
)
CIDRS += ("::/0", "fd00::/64", "fd00::7/128", "::ffff:0:0/96", "fe80::/10")
ASKERS = (
    "10.0.0.7",
    "10.0.0.200",
    "10.9.0.1",
    "11.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "fd00::7",
    "fd00::8",
    "::",
    "ff::1",
)


def looked_up_plainly(
    legs: list[Port], subnets: dict[str, Subnet], router: str, address: IPv4Address | IPv6Address
) -> set[str]:
    own = [one for one in legs if one.device_id == router]
    on = [(one, subnets[fixed.subnet_id]) for one in own for fixed in one.fixed_ips if fixed.subnet_id in subnets]
    home = [(one, at) for one, at in on if address in ip_network(at.cidr, strict=False)]
    return {one.network_id for one, at in home or on if at.project_id == one.project_id or at.gateway_ip == GATEWAY}


def test_whatever_changed_before_it_says_what_a_plain_search_says() -> None:
    """Overlaps, several subnets on a port, one on two ports, subnets that are not known, in any order of news."""
    chance = random.Random(3)
    for _ in range(40):
        reach, legs, subnets = RouterNetworks(), dict[str, Port](), dict[str, Subnet]()
        for _ in range(12):
            if chance.random() < 0.5:
                port_id = f"{chance.randrange(4):08}"
                if port_id in legs:
                    reach.drop(legs.pop(port_id))
                if chance.random() < 0.8:
                    on = [f"s{chance.randrange(5)}" for _ in range(chance.randrange(4))]
                    router, network = f"r{chance.randrange(2)}", f"n{chance.randrange(3)}"
                    legs[port_id] = leg(port_id, network, *on, router=router)
                    reach.add(legs[port_id])
            else:
                subnets = dict(subnets)
                one = f"s{chance.randrange(5)}"
                if subnets.pop(one, None) is None:
                    project, gateway = chance.choice(("p", "other")), chance.choice((GATEWAY, "192.0.2.9", None))
                    subnets[one] = subnet(one, "-", chance.choice(CIDRS), project=project, gateway=gateway)
                reach.know(subnets)
            for router in ("r0", "r1"):
                for text in ASKERS:
                    address = ip_address(text)
                    plainly = looked_up_plainly(list(legs.values()), subnets, router, address)
                    assert reach.networks(router, address) == plainly, (router, text, legs, subnets)


def test_nothing_is_remembered_of_routers_that_there_are_not() -> None:
    reach = reach_of(*LEGS)
    for number in range(100):
        assert reach.networks(f"router-{number}", ip_address("10.0.0.7")) == frozenset()
    assert reach == reach_of(*LEGS)
