from __future__ import annotations

from dataclasses import replace

from tests.unit.netconfig.cloud import (
    EXTERNAL_SUBNET,
    FLOATING,
    GATEWAY_PORT,
    ROUTER,
    ROUTER_PORT,
    SUBNET,
    router_view,
    subnet_v6,
)

from openimds.netconfig.namespace_state import Bridge, Device, Route
from openimds.netconfig.router_namespace import (
    RouterMetadata,
    ipv4_rules,
    ipv6_rules,
    router_bridges,
    router_namespace_state,
    unreachable_routes,
)
from openimds.resources.network import ExternalGateway, FixedIP, HostRoute

METADATA = RouterMetadata()


def test_namespace_has_devices_and_a_default_route() -> None:
    state = router_namespace_state(router_view(floating_ips=(FLOATING,)), METADATA, "lab-")
    assert state.name == "lab-qrouter-router-1"
    assert state.devices == (
        Device(
            name="qr-bbbbbbbb-bb",
            host_name="tapbbbbbbbb-bb",
            bridge="brq2720a749-03",
            mac_address="fa:16:3e:00:00:01",
            mtu=1442,
            addresses=frozenset({"192.168.40.1/24"}),
        ),
        Device(
            name="qg-cccccccc-cc",
            host_name="tapcccccccc-cc",
            bridge="brqeeeeeeee-ee",
            mac_address="fa:16:3e:00:00:02",
            mtu=1500,
            addresses=frozenset({"203.0.113.5/24", "203.0.113.50/32"}),
        ),
    )
    assert state.routes == frozenset({Route("0.0.0.0/0", "203.0.113.1", "qg-cccccccc-cc")})
    assert state.sysctls["net.ipv4.ip_forward"] == "1"
    assert router_bridges(router_view()) == (
        Bridge(name="brq2720a749-03", mtu=1442),
        Bridge(name="brqeeeeeeee-ee", mtu=1500),
    )


def test_extra_route_uses_the_device_of_its_next_hop() -> None:
    routes = (
        HostRoute("10.9.0.0/16", "192.168.40.9"),
        HostRoute("10.8.0.0/16", "172.16.0.1"),
        HostRoute("0.0.0.0/0", "192.168.40.7"),
    )
    view = router_view(router=replace(ROUTER, routes=routes))
    assert router_namespace_state(view, METADATA).routes == frozenset(
        {
            Route("10.9.0.0/16", "192.168.40.9", "qr-bbbbbbbb-bb"),
            Route("0.0.0.0/0", "192.168.40.7", "qr-bbbbbbbb-bb"),
        }
    )
    assert unreachable_routes(view) == ("10.8.0.0/16",)


def test_last_of_two_routes_to_one_destination_is_set() -> None:
    """The kernel has one of them, so an agent that desired both replaced one by the other in every pass."""
    routes = tuple(HostRoute("10.9.0.0/16", next_hop) for next_hop in ("192.168.40.8", "192.168.40.9", "172.16.0.1"))
    view = router_view(router=replace(ROUTER, routes=routes), gateway=None)
    assert router_namespace_state(view, METADATA).routes == frozenset(
        {Route("10.9.0.0/16", "192.168.40.9", "qr-bbbbbbbb-bb")}
    )


def test_router_with_admin_state_down_has_no_devices() -> None:
    state = router_namespace_state(router_view(router=replace(ROUTER, admin_state_up=False)), METADATA)
    assert state.devices == ()
    assert state.routes == frozenset()


def test_router_without_a_gateway_has_no_default_route() -> None:
    state = router_namespace_state(router_view(gateway=None), METADATA)
    assert state.routes == frozenset()
    assert len(state.devices) == 1


def test_own_address_is_not_a_gateway() -> None:
    subnet = replace(EXTERNAL_SUBNET, gateway_ip="203.0.113.5")
    assert router_namespace_state(router_view(subnets=(SUBNET, subnet)), METADATA).routes == frozenset()


def test_port_of_an_unknown_subnet_has_no_address() -> None:
    state = router_namespace_state(router_view(subnets=(EXTERNAL_SUBNET,)), METADATA)
    assert state.devices[0].addresses == frozenset()


def test_ipv6_interface_also_has_the_metadata_address() -> None:
    port = replace(ROUTER_PORT, fixed_ips=(FixedIP("subnet-6", "2001:db8::1"),))
    outside = subnet_v6("subnet-e6", cidr="2001:db8:e::/64", gateway_ip="2001:db8:e::1")
    gateway = replace(GATEWAY_PORT, fixed_ips=(*GATEWAY_PORT.fixed_ips, FixedIP("subnet-e6", "2001:db8:e::5")))
    view = router_view(internal=(port,), gateway=gateway, subnets=(subnet_v6(), EXTERNAL_SUBNET, outside))
    state = router_namespace_state(view, METADATA)
    assert state.devices[0].addresses == frozenset({"2001:db8::1/64", "fe80::a9fe:a9fe/64"})
    assert state.routes == frozenset(
        {
            Route("0.0.0.0/0", "203.0.113.1", "qg-cccccccc-cc"),
            Route("::/0", "2001:db8:e::1", "qg-cccccccc-cc"),
        }
    )
    off = router_namespace_state(view, RouterMetadata(enable_metadata_proxy=False))
    assert off.devices[0].addresses == frozenset({"2001:db8::1/64"})


def test_interface_that_is_not_the_gateway_has_no_metadata_address() -> None:
    beside = replace(ROUTER_PORT, fixed_ips=(FixedIP("subnet-6", "2001:db8::66"),), project_id="other")
    state = router_namespace_state(router_view(internal=(beside,), gateway=None, subnets=(subnet_v6(),)), METADATA)
    assert state.devices[0].addresses == frozenset({"2001:db8::66/64"})


def test_rules_of_a_router_with_snat_and_floating_ips() -> None:
    assert ipv4_rules(router_view(floating_ips=(FLOATING,)), METADATA).tables == {
        "nat": (
            "-A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697",
            "-A PREROUTING -d 203.0.113.50/32 -j DNAT --to-destination 192.168.40.5",
            "-A OUTPUT -d 203.0.113.50/32 -j DNAT --to-destination 192.168.40.5",
            "-A POSTROUTING ! -o qg-cccccccc-cc -m conntrack ! --ctstate DNAT -j ACCEPT",
            "-A POSTROUTING -s 192.168.40.5/32 -j SNAT --to-source 203.0.113.50",
            "-A POSTROUTING -o qg-cccccccc-cc -j SNAT --to-source 203.0.113.5",
            "-A POSTROUTING -m mark ! --mark 0x2/0xffff -m conntrack --ctstate DNAT -j SNAT --to-source 203.0.113.5",
        ),
        "mangle": (
            "-A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffff",
            "-A PREROUTING -i qg-cccccccc-cc -j MARK --set-xmark 0x2/0xffff",
        ),
        "filter": (
            "-A INPUT -m mark --mark 0x1/0xffff -j ACCEPT",
            "-A INPUT -p tcp -m tcp --dport 9697 -j DROP",
            "-A FORWARD -d 169.254.169.254/32 -j REJECT --reject-with icmp-port-unreachable",
            "-A FORWARD -i qg-cccccccc-cc -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
        ),
    }


def test_rules_of_a_router_without_a_gateway() -> None:
    tables = ipv4_rules(router_view(gateway=None), METADATA).tables
    assert len(tables["nat"]) == 1
    assert len(tables["mangle"]) == 1


def test_rules_of_a_router_without_snat() -> None:
    gateway = ExternalGateway(network_id="x", enable_snat=False)
    tables = ipv4_rules(router_view(router=replace(ROUTER, external_gateway=gateway)), METADATA).tables
    assert tables["nat"][1:] == ("-A POSTROUTING ! -o qg-cccccccc-cc -m conntrack ! --ctstate DNAT -j ACCEPT",)
    assert not [rule for rule in tables["filter"] if "qg-" in rule]


def test_gateway_with_only_ipv6_translates_nothing() -> None:
    port = replace(GATEWAY_PORT, fixed_ips=(FixedIP("subnet-e6", "2001:db8:e::5"),))
    assert not [rule for rule in ipv4_rules(router_view(gateway=port), METADATA).tables["nat"] if "SNAT" in rule]


def test_ipv6_rules_only_redirect_to_the_metadata_proxy() -> None:
    assert ipv6_rules(RouterMetadata(metadata_port=8888, access_mark=0x10)).tables == {
        "nat": ("-A PREROUTING -d fe80::a9fe:a9fe/128 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8888",),
        "mangle": (
            "-A PREROUTING -d fe80::a9fe:a9fe/128 -i qr-+ -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x10/0xffff",
        ),
        "filter": (
            "-A INPUT -m mark --mark 0x10/0xffff -j ACCEPT",
            "-A INPUT -p tcp -m tcp --dport 8888 -j DROP",
            "-A FORWARD -d fe80::a9fe:a9fe/128 -j REJECT --reject-with icmp6-port-unreachable",
        ),
    }


def test_packets_to_the_metadata_service_are_rejected_without_a_proxy() -> None:
    tables = ipv6_rules(RouterMetadata(enable_metadata_proxy=False)).tables
    assert tables["nat"] == tables["mangle"] == ()
    assert len(tables["filter"]) == 1
