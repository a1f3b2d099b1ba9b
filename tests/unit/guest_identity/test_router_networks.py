"""The networks that a client behind a router can be on."""

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


def interface(port_id: str, network: str, *subnet_ids: str, router: str = "r1") -> Port:
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


def routers_of(*interfaces: Port) -> RouterNetworks:
    routers = RouterNetworks()
    for one in interfaces:
        routers.add(one)
    routers.know(SUBNETS)
    return routers


INTERFACES = (
    interface("11111111-1111-a", "a", "a4", "a6"),
    interface("22222222-2222-b", "b", "b4"),
    interface("3", "c", "link"),
)


@pytest.mark.parametrize(
    ("address", "device", "networks"),
    [
        ("10.0.0.7", "", {"a"}),  # the router is not on the subnet of b with this address
        ("10.0.0.0", "", {"a"}),
        ("10.0.0.255", "", {"a"}),
        ("10.0.1.127", "", {"b"}),
        ("10.0.1.128", "", {"a", "b", "c"}),  # an address behind an instance, by a static route
        ("fd00:a::7", "", {"a"}),
        ("fd00:b::7", "", {"a", "b", "c"}),
        ("::a00:7", "", {"a", "b", "c"}),  # the IPv6 address has the number of an IPv4 address
        ("169.254.3.4", "", {"c"}),
        ("fe80::1", "", {"a", "b", "c"}),
        ("fe80::1", "qr-22222222-22", {"b"}),
        ("fe80::1", "qr-33333333-33", set()),
    ],
)
def test_the_networks_of_an_address_and_a_device_are_found(address: str, device: str, networks: set[str]) -> None:
    assert routers_of(*INTERFACES).networks("r1", ip_address(address), device) == networks


@pytest.mark.parametrize(("gateway", "counts"), [("192.0.2.9", False), (None, False), (GATEWAY, True)])
def test_interface_on_another_projects_network_counts_only_as_its_gateway(gateway: str | None, counts: bool) -> None:
    """A member attaches its router to a shared network and leads a guest's address to itself by an extra route."""
    subnets = SUBNETS | {"a4": subnet("a4", "a", "10.0.0.0/24", project="other", gateway=gateway)}
    subnets |= {"a6": subnet("a6", "a", "fd00:a::/64", project="other")}
    routers = RouterNetworks()
    for one in INTERFACES:
        routers.add(one)
    routers.know(subnets)
    shared = {"a"} if counts else set()
    assert routers.networks("r1", ip_address("10.0.0.7")) == shared
    # The router is not on a subnet with this address.
    assert routers.networks("r1", ip_address("10.9.0.7")) == {"b", "c"} | shared
    assert routers.networks("r1", ip_address("fe80::1"), "qr-11111111-11") == shared
    assert routers.networks("r1", ip_address("fd00:a::7")) == set()


def test_another_router_has_no_networks() -> None:
    assert routers_of(*INTERFACES).networks("r2", ip_address("10.0.0.7")) == frozenset()


def test_a_removed_interface_ends_its_network_and_an_external_gateway_is_ignored() -> None:
    gateway = Port(
        id="g", network_id="ext", project_id="p", mac_address="-", device_id="r1", device_owner="network:router_gateway"
    )
    assert not is_router_interface(gateway)
    routers = routers_of(*INTERFACES, gateway)
    routers.drop(gateway)
    routers.drop(INTERFACES[0])
    assert routers.networks("r1", ip_address("10.0.0.7")) == {"b", "c"}
    routers.drop(INTERFACES[1])
    routers.drop(INTERFACES[2])
    assert routers.networks("r1", ip_address("10.0.0.7")) == frozenset()


def test_added_and_removed_subnets_affect_their_routers() -> None:
    routers = routers_of(*INTERFACES, interface("4", "b", "b4", router="r2"))
    assert routers.know(SUBNETS) == set()
    assert routers.know(dict(SUBNETS)) == set()
    assert routers.know({one: value for one, value in SUBNETS.items() if one != "a6"}) == {"r1"}
    assert routers.networks("r1", ip_address("fd00:a::7")) == {"a", "b", "c"}
    other_gateway = SUBNETS | {"b4": subnet("b4", "b", "10.0.1.0/25", gateway=GATEWAY)}
    assert routers.know(other_gateway) == {"r1", "r2"}
    assert routers.know({one: value for one, value in SUBNETS.items() if one != "b4"}) == {"r1", "r2"}


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
CLIENT_ADDRESSES = (
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


def linear_search(
    interfaces: list[Port], subnets: dict[str, Subnet], router: str, address: IPv4Address | IPv6Address
) -> set[str]:
    own = [one for one in interfaces if one.device_id == router]
    on = [(one, subnets[fixed.subnet_id]) for one in own for fixed in one.fixed_ips if fixed.subnet_id in subnets]
    home = [(one, at) for one, at in on if address in ip_network(at.cidr, strict=False)]
    return {one.network_id for one, at in home or on if at.project_id == one.project_id or at.gateway_ip == GATEWAY}


def test_the_result_after_any_changes_equals_a_linear_search() -> None:
    """The changes have overlapping subnets, several subnets on a port, one subnet on two ports, and missing subnets."""
    chance = random.Random(3)
    for _ in range(40):
        routers, interfaces, subnets = RouterNetworks(), dict[str, Port](), dict[str, Subnet]()
        for _ in range(12):
            if chance.random() < 0.5:
                port_id = f"{chance.randrange(4):08}"
                if port_id in interfaces:
                    routers.drop(interfaces.pop(port_id))
                if chance.random() < 0.8:
                    on = [f"s{chance.randrange(5)}" for _ in range(chance.randrange(4))]
                    router, network = f"r{chance.randrange(2)}", f"n{chance.randrange(3)}"
                    interfaces[port_id] = interface(port_id, network, *on, router=router)
                    routers.add(interfaces[port_id])
            else:
                subnets = dict(subnets)
                one = f"s{chance.randrange(5)}"
                if subnets.pop(one, None) is None:
                    project, gateway = chance.choice(("p", "other")), chance.choice((GATEWAY, "192.0.2.9", None))
                    subnets[one] = subnet(one, "-", chance.choice(CIDRS), project=project, gateway=gateway)
                routers.know(subnets)
            for router in ("r0", "r1"):
                for text in CLIENT_ADDRESSES:
                    address = ip_address(text)
                    expected = linear_search(list(interfaces.values()), subnets, router, address)
                    assert routers.networks(router, address) == expected, (router, text, interfaces, subnets)


def test_queries_for_missing_routers_leave_no_state() -> None:
    routers = routers_of(*INTERFACES)
    for number in range(100):
        assert routers.networks(f"router-{number}", ip_address("10.0.0.7")) == frozenset()
    assert routers == routers_of(*INTERFACES)
