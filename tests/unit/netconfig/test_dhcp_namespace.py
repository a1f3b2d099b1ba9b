from __future__ import annotations

from dataclasses import replace

from tests.unit.netconfig.cloud import DHCP_PORT, NETWORK, SUBNET, dhcp_network, subnet_v6

from openimds.netconfig.dhcp_namespace import SYSCTLS, dhcp_namespace_state, network_bridge
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState, Route
from openimds.resources.network import FixedIP


def test_looks_as_in_the_pictures() -> None:
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


def test_both_families_with_the_proxy() -> None:
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


def test_without_the_proxy_only_its_own_address() -> None:
    state = dhcp_namespace_state(dhcp_network(), has_proxy=False)
    assert state.devices[0].addresses == frozenset({"192.168.40.121/24"})


def test_gateway_that_cannot_be_reached_makes_no_route() -> None:
    for gateway in (None, "10.0.0.1", "192.168.40.121"):
        state = dhcp_namespace_state(dhcp_network(subnets=(replace(SUBNET, gateway_ip=gateway),)), has_proxy=False)
        assert state.routes == frozenset()
