from __future__ import annotations

from dataclasses import replace

from tests.unit.netconfig.cloud import FLOATING, GATEWAY_PORT, ROUTER, router_view

from openimds.netconfig.router_rules import ipv4_rules, ipv6_rules
from openimds.netconfig.router_view import RouterMetadata
from openimds.resources.network import ExternalGateway, FixedIP

METADATA = RouterMetadata()


def test_router_with_everything() -> None:
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
        ),
    }


def test_router_without_a_gateway() -> None:
    tables = ipv4_rules(router_view(gateway=None), METADATA).tables
    assert len(tables["nat"]) == 1
    assert len(tables["mangle"]) == 1


def test_without_snat() -> None:
    gateway = ExternalGateway(network_id="x", enable_snat=False)
    tables = ipv4_rules(router_view(router=replace(ROUTER, external_gateway=gateway)), METADATA).tables
    assert tables["nat"][1:] == ("-A POSTROUTING ! -o qg-cccccccc-cc -m conntrack ! --ctstate DNAT -j ACCEPT",)


def test_gateway_with_ipv6_alone_translates_nothing() -> None:
    port = replace(GATEWAY_PORT, fixed_ips=(FixedIP("subnet-e6", "2001:db8:e::5"),))
    assert not [rule for rule in ipv4_rules(router_view(gateway=port), METADATA).tables["nat"] if "SNAT" in rule]


def test_ipv6() -> None:
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


def test_switched_off_service_is_still_never_forwarded() -> None:
    tables = ipv6_rules(RouterMetadata(enable_metadata_proxy=False)).tables
    assert tables["nat"] == tables["mangle"] == ()
    assert len(tables["filter"]) == 1
