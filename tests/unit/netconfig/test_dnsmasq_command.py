from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.netconfig.cloud import DHCP_PORT, NETWORK, ROUTER_PORT, SUBNET, dhcp_network, subnet_v6

from openimds.netconfig.dnsmasq_command import DnsmasqPaths, DnsmasqSettings, dnsmasq
from openimds.resources.network import FixedIP

PATHS = DnsmasqPaths.of(Path("/var/lib/openimds"), NETWORK.id)
FOLDER = f"/var/lib/openimds/dhcp/{NETWORK.id}"


DEFAULTS = DnsmasqSettings()


def argv(settings: DnsmasqSettings = DEFAULTS, **of_network: object) -> tuple[str, ...]:
    return dnsmasq(dhcp_network(**of_network), PATHS, settings, "qdhcp-x").argv  # type: ignore[arg-type]


def test_command_line_with_default_settings() -> None:
    assert argv() == (
        "dnsmasq",
        "--no-hosts",
        "--no-resolv",
        f"--pid-file={FOLDER}/pid",
        f"--dhcp-hostsfile={FOLDER}/host",
        f"--addn-hosts={FOLDER}/addn_hosts",
        f"--dhcp-optsfile={FOLDER}/opts",
        f"--dhcp-leasefile={FOLDER}/leases",
        "--conf-file=",
        "--bind-dynamic",
        "--interface=tap01e7ee7b-98",
        "--except-interface=lo",
        "--local-service",
        "--no-negcache",
        "--no-ping",
        "--dhcp-authoritative",
        "--dhcp-ignore-clid",
        "--dhcp-option-force=option:mtu,1442",
        "--dhcp-range=set:subnet-subnet-4,192.168.40.0,static,255.255.255.0,86400s",
        "--dhcp-lease-max=256",
        "--domain=openstacklocal",
    )


def test_command_line_with_all_settings() -> None:
    settings = DnsmasqSettings(
        dns_domain="",
        lease_seconds=None,
        lease_max=10,
        dns_forwarders=("9.9.9.9",),
        broadcast_reply=True,
        user="root",
        use_host_resolvers=True,
        extra_config_file=Path("/etc/more.conf"),
    )
    found = argv(settings)
    assert "--no-resolv" not in found
    assert "--conf-file=/etc/more.conf" in found
    assert found[-5:] == (
        "--dhcp-range=set:subnet-subnet-4,192.168.40.0,static,255.255.255.0,infinite",
        "--dhcp-lease-max=10",
        "--server=9.9.9.9",
        "--dhcp-broadcast",
        "--user=root",
    )


def test_ipv6_range_follows_the_mode() -> None:
    subnets = (
        subnet_v6("s-stateful", ipv6_address_mode="dhcpv6-stateful"),
        subnet_v6("s-stateless", ipv6_address_mode="dhcpv6-stateless", cidr="2001:db8:1::/64"),
        subnet_v6("s-slaac", ipv6_address_mode="slaac", cidr="2001:db8:2::/64"),
        subnet_v6("s-plain", cidr="2001:db8:3::/64"),
    )
    port = replace(DHCP_PORT, fixed_ips=tuple(FixedIP(subnet.id, "2001:db8::2") for subnet in subnets))
    ranges = [word for word in argv(subnets=subnets, dhcp_port=port) if word.startswith("--dhcp-range")]
    assert ranges == [
        "--dhcp-range=set:subnet-s-stateful,2001:db8::,static,64,86400s",
        "--dhcp-range=set:subnet-s-stateless,2001:db8:1::,static,64,86400s",
        "--dhcp-range=set:subnet-s-plain,2001:db8:3::,static,64,86400s",
    ]


def test_subnet_without_an_address_has_no_range() -> None:
    assert argv(subnets=(SUBNET, replace(SUBNET, id="new", cidr="10.0.0.0/24"))) == argv()


def test_files_have_neutrons_names() -> None:
    names = [path.name for path in (PATHS.hosts, PATHS.names, PATHS.options, PATHS.leases, PATHS.pid, PATHS.interface)]
    assert names == ["host", "addn_hosts", "opts", "leases", "pid", "interface"]


@pytest.mark.parametrize(
    ("mode", "mode_text", "managed"),
    [
        ("slaac", "ra-only", False),
        ("dhcpv6-stateless", "static,ra-stateless", False),
        ("dhcpv6-stateful", "static", True),
    ],
)
def test_prefixes_are_advertised_without_a_router(mode: str, mode_text: str, *, managed: bool) -> None:
    subnet = subnet_v6(ipv6_ra_mode=mode, ipv6_address_mode=mode)
    port = replace(DHCP_PORT, fixed_ips=(*DHCP_PORT.fixed_ips, FixedIP(subnet.id, "2001:db8::2")))
    found = argv(subnets=(SUBNET, subnet), dhcp_port=port)
    assert f"--dhcp-range=set:subnet-subnet-6,2001:db8::,{mode_text},64,86400s" in found
    assert f"--ra-param={port.tap_name},mtu:1442,0,0" in found
    assert ("--enable-ra" in found) is managed
    router = replace(ROUTER_PORT, fixed_ips=(FixedIP(subnet.id, "2001:db8::1"),))
    routed = dnsmasq(dhcp_network(router, subnets=(SUBNET, subnet), dhcp_port=port), PATHS, DEFAULTS, "qdhcp-x").argv
    assert "ra-" not in " ".join(routed)
