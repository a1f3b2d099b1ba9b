"""The NIC plan of an instance."""

from __future__ import annotations

import pytest
from tests.builders import subnet

from openimds.netconfig.netns_instance import nic_name, nic_plan
from openimds.resources.network import FixedIP, Port

SUBNETS = {
    one.id: one
    for one in (
        subnet("dhcp", "10.7.0.0/24", gateway_ip="10.7.0.1"),
        subnet("dhcp2", "10.8.0.0/24"),
        subnet("plain", "10.9.0.0/24", gateway_ip="10.9.0.1", enable_dhcp=False),
        subnet("lonely", "10.10.0.0/24", enable_dhcp=False),
        subnet("slaac", "fd00:1::/64", ipv6_address_mode="slaac", ipv6_ra_mode="slaac"),
        subnet("stateful", "fd00:2::/64", ipv6_address_mode="dhcpv6-stateful"),
        subnet("six", "fd00:3::/64", gateway_ip="fd00:3::1", enable_dhcp=False),
    )
}


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ([], ["auto"]),
        ([("dhcp", "10.7.0.5"), ("dhcp2", "10.8.0.5")], ["auto", "dhcp4"]),
        ([("plain", "10.9.0.5")], ["auto", "static 10.9.0.5/24 10.9.0.1"]),
        ([("lonely", "10.10.0.5")], ["auto", "static 10.10.0.5/24"]),
        ([("slaac", "fd00:1::5")], ["auto"]),
        ([("dhcp", "10.7.0.5"), ("stateful", "fd00:2::5")], ["auto", "dhcp4", "dhcp6"]),
        ([("six", "fd00:3::5")], ["auto", "static fd00:3::5/64 fd00:3::1"]),
        ([("unknown", "10.1.0.5")], ["auto"]),
    ],
)
def test_nic_plan_follows_the_subnets(fixed: list[tuple[str, str]], expected: list[str]) -> None:
    port = Port(
        id="p",
        network_id="n",
        project_id="p",
        mac_address="fa:16:3e:00:00:01",
        fixed_ips=tuple(FixedIP(*one) for one in fixed),
    )
    assert nic_plan(nic_name(1), port, SUBNETS).splitlines() == [f"eth1 {step}" for step in expected]
