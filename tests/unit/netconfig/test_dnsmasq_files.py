from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.netconfig.cloud import DHCP_PORT, GUEST_PORT, ROUTER_PORT, SUBNET, dhcp_network, subnet_v6

from openimds.netconfig.dhcp_network import DhcpNetwork, MetadataOptions
from openimds.netconfig.dnsmasq_command import DnsmasqSettings
from openimds.netconfig.dnsmasq_files import DnsmasqFiles, dnsmasq_files, host_routes, rejected_options
from openimds.resources.network import ExtraDhcpOption, FixedIP, HostRoute

OFF = MetadataOptions()
FORCED = MetadataOptions(force_metadata=True)
TAG = "tag:subnet-subnet-4"


def files(dhcp: DhcpNetwork, choice: MetadataOptions = OFF, **settings: str) -> DnsmasqFiles:
    return dnsmasq_files(dhcp, DnsmasqSettings(**settings), choice)  # type: ignore[arg-type]


def test_isolated_network_with_the_proxy() -> None:
    assert files(dhcp_network(GUEST_PORT), FORCED) == DnsmasqFiles(
        hosts=(
            "fa:16:3e:54:93:88,host-192-168-40-121.openstacklocal,192.168.40.121\n"
            "fa:16:3e:00:00:05,host-192-168-40-5.openstacklocal,192.168.40.5\n"
        ),
        names=(
            "192.168.40.121\thost-192-168-40-121.openstacklocal host-192-168-40-121\n"
            "192.168.40.5\thost-192-168-40-5.openstacklocal host-192-168-40-5\n"
        ),
        options=(
            f"{TAG},option:dns-server\n"
            f"{TAG},option:classless-static-route,169.254.169.254/32,192.168.40.121,0.0.0.0/0,192.168.40.1\n"
            f"{TAG},249,169.254.169.254/32,192.168.40.121,0.0.0.0/0,192.168.40.1\n"
            f"{TAG},option:router,192.168.40.1\n"
        ),
    )


def test_network_with_nothing_to_reach() -> None:
    alone = replace(SUBNET, gateway_ip=None, dns_nameservers=("192.168.40.53", "0.0.0.0"))
    options = files(dhcp_network(subnets=(alone,))).options
    assert options == f"{TAG},option:dns-server,192.168.40.53\n{TAG},option:router\n"


@pytest.mark.parametrize(
    ("subnet", "ports", "choice", "routes"),
    [
        (SUBNET, (), OFF, []),
        (SUBNET, (ROUTER_PORT,), OFF, ["169.254.169.254/32 192.168.40.1", "0.0.0.0/0 192.168.40.1"]),
        (replace(SUBNET, gateway_ip=None), (), FORCED, ["169.254.169.254/32 192.168.40.121"]),
        (
            replace(SUBNET, host_routes=(HostRoute("10.0.0.0/8", "192.168.40.9"),)),
            (),
            FORCED,
            ["10.0.0.0/8 192.168.40.9", "169.254.169.254/32 192.168.40.121", "0.0.0.0/0 192.168.40.1"],
        ),
        (
            replace(SUBNET, host_routes=(HostRoute("169.254.169.254/32", "192.168.40.9"),)),
            (),
            FORCED,
            ["169.254.169.254/32 192.168.40.9", "0.0.0.0/0 192.168.40.1"],
        ),
        (
            replace(SUBNET, gateway_ip=None, host_routes=(HostRoute("0.0.0.0/0", "192.168.40.9"),)),
            (),
            FORCED,
            ["169.254.169.254/32 192.168.40.121", "0.0.0.0/0 192.168.40.9"],
        ),
    ],
    ids=["none", "router", "no gateway", "own route", "own metadata route", "own default route"],
)
def test_host_routes(subnet, ports, choice, routes) -> None:
    found = host_routes(dhcp_network(*ports, subnets=(subnet,)), subnet, choice)
    assert [f"{route.destination} {route.nexthop}" for route in found] == routes


def test_other_subnets_of_the_network_are_on_the_link() -> None:
    other = replace(SUBNET, id="other", cidr="192.168.50.0/24")
    routes = host_routes(dhcp_network(subnets=(SUBNET, other, subnet_v6())), SUBNET, OFF)
    assert routes == (HostRoute("192.168.50.0/24", "0.0.0.0"), HostRoute("0.0.0.0/0", "192.168.40.1"))


def test_names() -> None:
    named = replace(GUEST_PORT, dns_name="VM1")
    twin = replace(named, id="twin", fixed_ips=(FixedIP(SUBNET.id, "192.168.40.6"),))
    broken = replace(named, id="x", dns_name="a,b\n", fixed_ips=(FixedIP(SUBNET.id, "192.168.40.7"),))
    hosts = files(dhcp_network(named, twin, broken), dns_domain="").hosts
    assert [line.split(",")[1] for line in hosts.splitlines()] == [
        "host-192-168-40-121", "vm1", "host-192-168-40-6", "host-192-168-40-7",
    ]  # fmt: skip
    names = files(dhcp_network(named), dns_domain="").names
    assert names.splitlines()[1] == "192.168.40.5\tvm1"


def test_ipv6_by_mode() -> None:
    stateful = subnet_v6("stateful", ipv6_address_mode="dhcpv6-stateful", dns_nameservers=("2001:db8::53", "::"))
    slaac = subnet_v6("slaac", ipv6_address_mode="slaac", cidr="2001:db8:1::/64")
    stateless = subnet_v6("stateless", ipv6_address_mode="dhcpv6-stateless", cidr="2001:db8:2::/64")
    own = replace(
        DHCP_PORT,
        fixed_ips=(
            FixedIP("stateful", "2001:db8::2"), FixedIP("slaac", "2001:db8:1::2"), FixedIP("stateless", "2001:db8:2::2"),
        ),
    )  # fmt: skip
    guest = replace(GUEST_PORT, fixed_ips=(FixedIP("stateful", "2001:db8::"), FixedIP("slaac", "2001:db8:1::5")))
    found = files(dhcp_network(guest, subnets=(stateful, slaac, stateless), dhcp_port=own))
    assert found.hosts.splitlines()[1:] == ["fa:16:3e:00:00:05,host-2001-db8--0.openstacklocal,[2001:db8::]"]
    assert "2001:db8:1::5\thost-2001-db8-1--5.openstacklocal host-2001-db8-1--5\n" in found.names
    assert found.options == (
        "tag:subnet-stateful,option6:dns-server,[2001:db8::53]\n"
        "tag:subnet-stateful,option6:domain-search,openstacklocal\n"
        "tag:subnet-stateless,option6:dns-server\n"
        "tag:subnet-stateless,option6:domain-search,openstacklocal\n"
    )
    bare = files(dhcp_network(guest, subnets=(stateful,), dhcp_port=own), dns_domain="")
    assert "domain-search" not in bare.options


def test_extra_options_are_tagged_and_bad_ones_left_out() -> None:
    guest = replace(
        GUEST_PORT,
        extra_dhcp_options=(
            ExtraDhcpOption("bootfile-name", "pxelinux.0"),
            ExtraDhcpOption("mtu", "1400\ntag:other,option:router,10.0.0.1"),
        ),
    )
    dhcp = dhcp_network(guest)
    found = files(dhcp)
    assert found.hosts.splitlines()[1].startswith(f"fa:16:3e:00:00:05,set:port-{guest.id},")
    assert found.options.splitlines()[-1] == f"tag:port-{guest.id},option:bootfile-name,pxelinux.0"
    assert rejected_options(dhcp) == ((guest.id, "mtu"),)
