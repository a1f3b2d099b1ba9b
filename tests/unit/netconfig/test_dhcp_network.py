from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.netconfig.cloud import DHCP_PORT, GUEST_PORT, NETWORK, SUBNET, dhcp_network, subnet_v6

from openimds.netconfig.dhcp_network import (
    SYSCTLS,
    desired_fixed_ips,
    dhcp_device_id,
    dhcp_namespace_state,
    needs_dhcp,
    network_bridge,
    own_dhcp_port,
)
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState, Route
from openimds.resources.network import FixedIP

OTHER = replace(SUBNET, id="subnet-5", cidr="192.168.50.0/24")


def test_device_id_is_the_same_as_neutrons() -> None:
    # python -c 'import uuid; print(uuid.uuid5(uuid.NAMESPACE_DNS, "node1"))'
    expected = f"dhcp8461c769-9756-5dd2-a662-868702182d0e-{NETWORK.id}"
    assert dhcp_device_id("node1", NETWORK.id) == expected
    assert dhcp_device_id("node1.example.org", NETWORK.id) == expected


def test_own_port_is_found_by_its_device_id() -> None:
    foreign = replace(DHCP_PORT, id="0", device_id=dhcp_device_id("node2", NETWORK.id))
    later = replace(DHCP_PORT, id="f")
    assert own_dhcp_port([later, foreign, GUEST_PORT, DHCP_PORT], "node1", NETWORK.id) == DHCP_PORT
    assert own_dhcp_port([foreign, GUEST_PORT], "node1", NETWORK.id) is None


@pytest.mark.parametrize(
    ("subnets", "port", "expected"),
    [
        ([SUBNET], None, (FixedIP("subnet-4", ""),)),
        ([SUBNET], DHCP_PORT, None),
        ([SUBNET, OTHER], DHCP_PORT, (FixedIP("subnet-4", "192.168.40.121"), FixedIP("subnet-5", ""))),
        ([replace(SUBNET, enable_dhcp=False), OTHER], DHCP_PORT, (FixedIP("subnet-5", ""),)),
    ],
    ids=["no port yet", "as it should be", "a subnet more", "one goes, one comes"],
)
def test_each_dhcp_subnet_gets_one_fixed_ip(subnets, port, expected) -> None:
    assert desired_fixed_ips(subnets, port) == expected


def test_only_subnets_with_an_address_are_served() -> None:
    dhcp = dhcp_network(subnets=(SUBNET, OTHER, replace(SUBNET, id="subnet-off", enable_dhcp=False), subnet_v6()))
    assert dhcp.served_subnets == (SUBNET,)
    assert dhcp.device_name == "tap01e7ee7b-98"
    assert dhcp.own_address(SUBNET) == "192.168.40.121"


@pytest.mark.parametrize(
    ("network", "subnets", "wants"),
    [
        (NETWORK, [SUBNET], True),
        (NETWORK, [], False),
        (NETWORK, [replace(SUBNET, enable_dhcp=False)], False),
        (replace(NETWORK, admin_state_up=False), [SUBNET], False),
    ],
)
def test_network_needs_dhcp_if_a_subnet_enables_it(network, subnets, wants) -> None:
    assert needs_dhcp(network, subnets) is wants


def test_namespace_has_the_device_of_the_dhcp_port() -> None:
    assert dhcp_namespace_state(dhcp_network(), has_proxy=True) == NamespaceState(
        name="qdhcp-2720a749-0377-4ebd-aa12-9d132f1fe450",
        devices=(
            Device(
                name="tap01e7ee7b-98",
                host_name="tap01e7ee7b-98",
                bridge="brq2720a749-03",
                mac_address="fa:16:3e:54:93:88",
                mtu=1442,
                addresses=frozenset({"169.254.169.254/16", "192.168.40.121/24"}),
            ),
        ),
        routes=frozenset({Route("0.0.0.0/0", "192.168.40.1", "tap01e7ee7b-98")}),
        sysctls=SYSCTLS,
    )
    assert network_bridge(dhcp_network()) == Bridge(name="brq2720a749-03", mtu=1442)


def test_proxy_adds_the_metadata_addresses_of_both_families() -> None:
    own = replace(DHCP_PORT, fixed_ips=(*DHCP_PORT.fixed_ips, FixedIP("subnet-6", "2001:db8::2")))
    dhcp = dhcp_network(subnets=(SUBNET, subnet_v6()), dhcp_port=own)
    state = dhcp_namespace_state(dhcp, has_proxy=True, namespace_prefix="lab-")
    assert state.name == f"lab-qdhcp-{NETWORK.id}"
    assert state.devices[0].addresses == frozenset({
        "169.254.169.254/16", "192.168.40.121/24", "2001:db8::2/64", "fe80::a9fe:a9fe/64",
    })  # fmt: skip
    assert state.routes == frozenset(
        {
            Route("0.0.0.0/0", "192.168.40.1", "tap01e7ee7b-98"),
            Route("::/0", "2001:db8::1", "tap01e7ee7b-98"),
        }
    )


def test_device_has_only_its_own_address_without_a_proxy() -> None:
    state = dhcp_namespace_state(dhcp_network(), has_proxy=False)
    assert state.devices[0].addresses == frozenset({"192.168.40.121/24"})


def test_unreachable_gateway_makes_no_route() -> None:
    for gateway in (None, "10.0.0.1", "192.168.40.121"):
        state = dhcp_namespace_state(dhcp_network(subnets=(replace(SUBNET, gateway_ip=gateway),)), has_proxy=False)
        assert state.routes == frozenset()
