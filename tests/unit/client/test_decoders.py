"""The decoding of the network API's JSON."""

from __future__ import annotations

from typing import Any

import pytest

from openimds.client import decoders
from openimds.client.control_client import Change, Snapshot
from openimds.client.mirror import CloudView, apply_changes, view_from_snapshot
from openimds.resources.network import (
    AddressPair,
    AllocationPool,
    ExternalGateway,
    ExtraDhcpOption,
    FixedIP,
    FloatingIP,
    HostRoute,
    Network,
    Port,
    Router,
    Subnet,
)
from openimds.resources.server import Server


def test_network_is_decoded():
    body = {
        "id": "n",
        "name": "net",
        "tenant_id": "t",
        "mtu": 1450,
        "router:external": True,
        "shared": True,
        "port_security_enabled": False,
        "admin_state_up": False,
        "dns_domain": "x.",
    }
    assert decoders.network(body) == Network(
        id="n",
        name="net",
        project_id="t",
        mtu=1450,
        shared=True,
        external=True,
        admin_state_up=False,
        port_security_enabled=False,
        dns_domain="x.",
    )
    assert decoders.network({"id": "n"}) == Network(id="n", name="", project_id="")


def test_subnet_is_decoded():
    body = {
        "id": "s",
        "network_id": "n",
        "project_id": "t",
        "ip_version": 6,
        "cidr": "fd00::/64",
        "gateway_ip": "fd00::1",
        "enable_dhcp": False,
        "dns_nameservers": ["fd00::53"],
        "host_routes": [{"destination": "fd01::/64", "nexthop": "fd00::2"}],
        "allocation_pools": [{"start": "fd00::2", "end": "fd00::ff"}],
        "ipv6_ra_mode": "slaac",
        "ipv6_address_mode": "slaac",
    }
    assert decoders.subnet(body) == Subnet(
        id="s",
        network_id="n",
        project_id="t",
        ip_version=6,
        cidr="fd00::/64",
        gateway_ip="fd00::1",
        enable_dhcp=False,
        dns_nameservers=("fd00::53",),
        host_routes=(HostRoute("fd01::/64", "fd00::2"),),
        allocation_pools=(AllocationPool("fd00::2", "fd00::ff"),),
        ipv6_ra_mode="slaac",
        ipv6_address_mode="slaac",
    )


def test_port_is_decoded():
    body = {
        "id": "p",
        "network_id": "n",
        "project_id": "t",
        "name": None,
        "mac_address": "fa:16:3e:00:00:01",
        "fixed_ips": [{"subnet_id": "s", "ip_address": "10.0.0.5"}],
        "device_id": "vm",
        "device_owner": "compute:nova",
        "binding:host_id": "node1",
        "status": "ACTIVE",
        "port_security_enabled": False,
        "allowed_address_pairs": [{"ip_address": "10.0.0.9"}],
        "security_groups": ["sg"],
        "extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1400", "ip_version": 4}],
        "dns_name": "vm1",
    }
    assert decoders.port(body) == Port(
        id="p",
        network_id="n",
        project_id="t",
        mac_address="fa:16:3e:00:00:01",
        fixed_ips=(FixedIP("s", "10.0.0.5"),),
        device_id="vm",
        device_owner="compute:nova",
        host="node1",
        status="ACTIVE",
        port_security_enabled=False,
        allowed_address_pairs=(AddressPair("10.0.0.9"),),
        security_group_ids=("sg",),
        extra_dhcp_options=(ExtraDhcpOption("mtu", "1400"),),
        dns_name="vm1",
    )


def test_recorded_attachment_replaces_the_fields_that_tenants_write():
    body = {"id": "p", "network_id": "n", "project_id": "t", "mac_address": "fa:16:3e:00:00:01"}
    claim = {"device_id": "victim", "device_owner": "network:router_interface"}
    binding = {"device_id": "", "device_owner": "", "generation": 4, "provisioning_blocks": ["dhcp"]}
    port = decoders.port({**body, **claim, "openimds:binding": binding})
    assert (port.device_id, port.device_owner) == ("", "")
    assert (port.binding_generation, port.provisioning_blocks) == (4, ("dhcp",))
    without_binding = decoders.port({**body, **claim})
    assert (without_binding.device_id, without_binding.device_owner) == ("victim", "network:router_interface")
    assert (without_binding.binding_generation, without_binding.provisioning_blocks) == (0, None)


def test_router_floating_ip_and_server_are_decoded():
    gateway = {
        "network_id": "out",
        "enable_snat": False,
        "external_fixed_ips": [{"subnet_id": "s", "ip_address": "203.0.113.5"}],
    }
    routes = [{"destination": "10.1.0.0/24", "nexthop": "10.0.0.2"}]
    assert decoders.router({"id": "r", "external_gateway_info": gateway, "routes": routes}) == Router(
        id="r",
        name="",
        project_id="",
        external_gateway=ExternalGateway(
            network_id="out", enable_snat=False, external_fixed_ips=(FixedIP("s", "203.0.113.5"),)
        ),
        routes=(HostRoute("10.1.0.0/24", "10.0.0.2"),),
    )
    assert decoders.router({"id": "r", "external_gateway_info": None}).external_gateway is None
    floating = {"id": "f", "floating_network_id": "out", "floating_ip_address": "203.0.113.9", "port_id": ""}
    assert decoders.floating_ip(floating) == FloatingIP(
        id="f", project_id="", floating_network_id="out", floating_ip_address="203.0.113.9"
    )
    server = {"id": "v", "name": "vm", "wanted_power_state": "running", "boot_generation": 3, "port_ids": ["p"]}
    assert decoders.server(server) == Server(
        id="v", name="vm", project_id="", hostname="", host="", wanted_power_state="running", boot_generation=3,
        port_ids=("p",),
    )  # fmt: skip


def test_dhcp_option_without_a_value_is_skipped():
    body = {"id": "p", "network_id": "n", "project_id": "t", "mac_address": "fa:16:3e:00:00:01"}
    options = [{"opt_name": "ntp-server", "opt_value": None}, {"opt_name": "router", "opt_value": ""}]
    port = decoders.port({**body, "extra_dhcp_opts": options})
    assert port.extra_dhcp_options == (ExtraDhcpOption("router", ""),)


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("port", {"id": "p"}, "port p: network_id is missing"),
        ("port", {"id": "p", "network_id": 5}, "port p: network_id is missing"),
        ("subnet", {"id": "s", "network_id": "n"}, "subnet s: cidr is missing"),
        ("network", {"id": "n", "mtu": "large"}, "network malformed"),
        ("network", [], "network malformed"),
        ("planet", {"id": "p"}, "there is no kind 'planet'"),
    ],
)
def test_error_names_the_kind_and_the_attribute(kind: str, body: Any, message: str):
    with pytest.raises(decoders.ParseError, match=message):
        decoders.resource(kind, body)


def test_views_share_unchanged_objects():
    one, two = Network(id="1", name="", project_id=""), Network(id="2", name="", project_id="")
    first = view_from_snapshot(Snapshot(5, {"network": {"1": one}, "port": {}}), CloudView())
    second = apply_changes(first, 6, [Change(6, "network", "2", two)])
    third = apply_changes(second, 7, [Change(7, "network", "1", None), Change(7, "network", "gone", None)])
    assert (first.revision, second.revision, third.revision) == (5, 6, 7)
    assert [sorted(view.networks) for view in (first, second, third)] == [["1"], ["1", "2"], ["2"]]
    assert second.ports is first.ports
    assert CloudView().revision == -1
