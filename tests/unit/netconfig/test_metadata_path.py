from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.netconfig.cloud import DHCP_PORT, GUEST_PORT, ROUTER_PORT, SUBNET, dhcp_network, subnet_v6

from openimds.netconfig.dhcp_network import MetadataOptions
from openimds.netconfig.metadata_path import (
    PathKind,
    isolated_subnets,
    metadata_network_router,
    metadata_path,
    needs_proxy,
)
from openimds.resources.network import FixedIP

NONE = MetadataOptions()
FORCED = MetadataOptions(force_metadata=True)
ISOLATED = MetadataOptions(enable_isolated_metadata=True)
BOTH = MetadataOptions(enable_isolated_metadata=True, enable_metadata_network=True)
NETWORK_ALONE = MetadataOptions(enable_metadata_network=True)

METADATA_SUBNET = replace(SUBNET, id="subnet-m", cidr="169.254.169.252/30", gateway_ip="169.254.169.253")
METADATA_DHCP_PORT = replace(DHCP_PORT, fixed_ips=(FixedIP("subnet-m", "169.254.169.254"),))
METADATA_ROUTER_PORT = replace(ROUTER_PORT, fixed_ips=(FixedIP("subnet-m", "169.254.169.253"),))


@pytest.mark.parametrize(
    ("ports", "isolated"),
    [
        ([], {"subnet-4"}),
        ([GUEST_PORT], {"subnet-4"}),
        ([ROUTER_PORT], set()),
        ([replace(ROUTER_PORT, device_owner="network:router_interface_distributed")], set()),
        ([replace(ROUTER_PORT, device_owner="network:ha_router_replicated_interface")], set()),
        ([replace(ROUTER_PORT, fixed_ips=(FixedIP("subnet-4", "192.168.40.9"),))], {"subnet-4"}),
    ],
    ids=["no port", "a guest", "a router", "distributed", "replicated", "a router beside the gateway"],
)
def test_subnet_is_isolated_without_a_router_at_its_gateway_address(ports, isolated) -> None:
    assert isolated_subnets([SUBNET], ports) == isolated


def test_subnet_without_a_gateway_is_isolated() -> None:
    assert isolated_subnets([replace(SUBNET, gateway_ip=None)], [ROUTER_PORT]) == {"subnet-4"}


@pytest.mark.parametrize(
    ("options", "isolated_only", "routed", "metadata_network"),
    [
        (NONE, False, False, False),
        (FORCED, True, True, True),
        (ISOLATED, True, False, False),
        (BOTH, True, False, True),
        (NETWORK_ALONE, False, False, False),
    ],
    ids=["none", "force_metadata", "enable_isolated_metadata", "both", "enable_metadata_network isolated_only"],
)
def test_options_decide_whether_the_dhcp_namespace_has_a_proxy(
    options, isolated_only, routed, metadata_network
) -> None:
    assert needs_proxy(dhcp_network(GUEST_PORT), options) is isolated_only
    assert needs_proxy(dhcp_network(ROUTER_PORT), options) is routed
    behind_router = dhcp_network(METADATA_ROUTER_PORT, subnets=(METADATA_SUBNET,), dhcp_port=METADATA_DHCP_PORT)
    assert needs_proxy(behind_router, options) is metadata_network


def test_network_has_no_proxy_before_the_port_has_an_address() -> None:
    assert not needs_proxy(dhcp_network(dhcp_port=replace(DHCP_PORT, fixed_ips=())), FORCED)


def test_metadata_network_sends_the_id_of_its_router() -> None:
    dhcp = dhcp_network(METADATA_ROUTER_PORT, subnets=(METADATA_SUBNET,), dhcp_port=METADATA_DHCP_PORT)
    assert metadata_network_router(dhcp, BOTH) == "router-1"
    assert metadata_network_router(dhcp, FORCED) is None
    assert metadata_network_router(dhcp_network(ROUTER_PORT, subnets=(SUBNET, subnet_v6())), BOTH) is None


def test_network_with_further_subnets_sends_no_router_id() -> None:
    """A project can add such a subnet to its own network, which another project's router may serve."""
    dhcp = dhcp_network(ROUTER_PORT, METADATA_ROUTER_PORT, subnets=(SUBNET, METADATA_SUBNET))
    assert metadata_network_router(dhcp, BOTH) is None


@pytest.mark.parametrize(
    ("ports", "options", "kind", "next_hop"),
    [
        ((), FORCED, PathKind.DHCP, "192.168.40.121"),
        ((ROUTER_PORT,), FORCED, PathKind.DHCP, "192.168.40.121"),
        ((), ISOLATED, PathKind.DHCP, "192.168.40.121"),
        ((ROUTER_PORT,), ISOLATED, PathKind.ROUTER, "192.168.40.1"),
        ((ROUTER_PORT,), NONE, PathKind.ROUTER, "192.168.40.1"),
        ((), NONE, PathKind.NONE, None),
    ],
)
def test_path_of_a_subnet(ports, options, kind, next_hop) -> None:
    path = metadata_path(dhcp_network(*ports), SUBNET, options)
    assert (path.kind, path.next_hop) == (kind, next_hop)


@pytest.mark.parametrize(
    ("subnet", "options", "reason"),
    [
        (SUBNET, NONE, "both force_metadata and enable_isolated_metadata are off"),
        (replace(SUBNET, gateway_ip=None), NONE, "the subnet names none"),
        (replace(SUBNET, enable_dhcp=False), ISOLATED, "DHCP is off"),
        (replace(SUBNET, id="subnet-new"), ISOLATED, "no address on subnet subnet-new yet"),
    ],
)
def test_reason_names_the_missing_part(subnet, options, reason) -> None:
    assert reason in metadata_path(dhcp_network(subnets=(subnet,)), subnet, options).reason
