from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.netconfig.cloud import DHCP_PORT, GUEST_PORT, ROUTER_PORT, SUBNET, dhcp_network, subnet_v6

from openimds.netconfig.dhcp_network import DhcpNetwork, MetadataOptions
from openimds.netconfig.dnsmasq_command import DnsmasqSettings
from openimds.netconfig.dnsmasq_files import (
    DnsmasqFiles,
    LeaseRecord,
    dnsmasq_files,
    host_routes,
    option_line,
    parse_hosts,
    parse_leases,
    rejected_options,
    stale_leases,
    without_leases,
)
from openimds.resources.network import ExtraDhcpOption, FixedIP, HostRoute

OFF = MetadataOptions()
FORCED = MetadataOptions(force_metadata=True)
TAG = "tag:subnet-subnet-4"


def files(dhcp: DhcpNetwork, options: MetadataOptions = OFF, **settings: str) -> DnsmasqFiles:
    return dnsmasq_files(dhcp, DnsmasqSettings(**settings), options)  # type: ignore[arg-type]


def test_files_of_an_isolated_network_with_a_proxy() -> None:
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


def test_subnet_without_gateway_has_empty_router_option() -> None:
    alone = replace(SUBNET, gateway_ip=None, dns_nameservers=("192.168.40.53", "0.0.0.0"))
    options = files(dhcp_network(subnets=(alone,))).options
    assert options == f"{TAG},option:dns-server,192.168.40.53\n{TAG},option:router\n"


@pytest.mark.parametrize(
    ("subnet", "ports", "options", "routes"),
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
def test_option_121_contains_the_host_routes(subnet, ports, options, routes) -> None:
    found = host_routes(dhcp_network(*ports, subnets=(subnet,)), subnet, options)
    assert [f"{route.destination} {route.nexthop}" for route in found] == routes


def test_other_subnets_of_the_network_are_on_link() -> None:
    other = replace(SUBNET, id="other", cidr="192.168.50.0/24")
    routes = host_routes(dhcp_network(subnets=(SUBNET, other, subnet_v6())), SUBNET, OFF)
    assert routes == (HostRoute("192.168.50.0/24", "0.0.0.0"), HostRoute("0.0.0.0/0", "192.168.40.1"))


def test_hostname_falls_back_to_the_address() -> None:
    named = replace(GUEST_PORT, dns_name="VM1")
    twin = replace(named, id="twin", fixed_ips=(FixedIP(SUBNET.id, "192.168.40.6"),))
    broken = replace(named, id="x", dns_name="a,b\n", fixed_ips=(FixedIP(SUBNET.id, "192.168.40.7"),))
    hosts = files(dhcp_network(named, twin, broken), dns_domain="").hosts
    assert [line.split(",")[1] for line in hosts.splitlines()] == [
        "host-192-168-40-121", "vm1", "host-192-168-40-6", "host-192-168-40-7",
    ]  # fmt: skip
    names = files(dhcp_network(named), dns_domain="").names
    assert names.splitlines()[1] == "192.168.40.5\tvm1"


def test_ipv6_files_follow_the_mode() -> None:
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


def test_extra_options_are_tagged_and_malformed_ones_are_rejected() -> None:
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


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (ExtraDhcpOption("bootfile-name", "a.efi"), "tag:t,option:bootfile-name,a.efi"),
        (ExtraDhcpOption("ntp-server", "10.0.0.1,10.0.0.2"), "tag:t,option:ntp-server,10.0.0.1,10.0.0.2"),
        (ExtraDhcpOption("router", ""), "tag:t,option:router"),
        (ExtraDhcpOption("150", "10.0.0.1"), "tag:t,150,10.0.0.1"),
        (ExtraDhcpOption("bootfile-url", "http://x", 6), "tag:t,option6:bootfile-url,http://x"),
        (ExtraDhcpOption("59", "http://x", 6), "tag:t,option6:59,http://x"),
    ],
)
def test_allowed_option_is_rendered(option, line) -> None:
    assert option_line("t", option) == line


@pytest.mark.parametrize(
    "option",
    [
        ExtraDhcpOption("bootfile-name", "a\nb"),
        ExtraDhcpOption("bootfile-name", "a\rb"),
        ExtraDhcpOption("bootfile-name", "a\0b"),
        ExtraDhcpOption("bootfile-name", "ä"),
        ExtraDhcpOption("bootfile-name", "x" * 256),
        ExtraDhcpOption("bootfile-name\nrouter", "x"),
        ExtraDhcpOption("no-such-option", "x"),
        ExtraDhcpOption("54", "10.0.0.1"),
        ExtraDhcpOption("51", "1"),
        ExtraDhcpOption("256", "1"),
        ExtraDhcpOption("٣", "1"),
        ExtraDhcpOption("", "1"),
        ExtraDhcpOption("bootfile-name", "x", 6),
        ExtraDhcpOption("1", "x", 6),
        ExtraDhcpOption("70000", "x", 6),
    ],
    ids=repr,
)
def test_option_is_rejected(option) -> None:
    assert option_line("t", option) is None


@given(st.text(), st.text(), st.sampled_from([4, 6]))
def test_rendered_option_is_one_line(name: str, value: str, version: int) -> None:
    line = option_line("t", ExtraDhcpOption(name, value, version))
    assert line is None or (line.isascii() and len(line.splitlines()) == 1)


TEXT = """\
1796000000 fa:16:3e:54:93:88 192.168.40.5 vm1 01:fa:16:3e:54:93:88
1796000000 FA:16:3e:54:93:89 192.168.40.6 * *
duid 00:01:00:01:2b
1796000000 1234567 2001:db8::5 vm1 00:01:00:01:aa
1796000000 T77 2001:db8::6 * 00:01:00:01:bb
179600
"""
FIRST = LeaseRecord("192.168.40.5", "fa:16:3e:54:93:88", "01:fa:16:3e:54:93:88")
SECOND = LeaseRecord("192.168.40.6", "fa:16:3e:54:93:89", None)
THIRD = LeaseRecord("2001:db8::5", None, "00:01:00:01:aa", "1234567")
FOURTH = LeaseRecord("2001:db8::6", None, "00:01:00:01:bb", "77")


def test_lease_file_is_parsed() -> None:
    found = parse_leases(TEXT)
    assert found.leases == (FIRST, SECOND, THIRD, FOURTH)
    assert found.server_duid == "00:01:00:01:2b"


def test_empty_lease_file_has_no_leases() -> None:
    assert parse_leases("").leases == ()
    assert parse_leases("").server_duid is None


def test_lease_is_stale_if_its_owner_changed_or_was_deleted() -> None:
    desired = {"192.168.40.5": "fa:16:3e:00:00:01", "192.168.40.6": "fa:16:3e:54:93:89", "2001:db8::5": "x"}
    leases = (FIRST, SECOND, THIRD, FOURTH)
    assert list(stale_leases(leases, desired, {})) == [FIRST, FOURTH]
    assert list(stale_leases(leases, desired, {"2001:db8::5": "x", "192.168.40.6": "y"})) == [FIRST, FOURTH]
    assert list(stale_leases(leases, desired, {"2001:db8::5": "y"})) == [FIRST, THIRD, FOURTH]


def test_hosts_file_is_parsed() -> None:
    text = "fa:16:3e:54:93:88,set:port-1,vm1.x,192.168.40.5\nFA:16:3e:54:93:89,vm2,[2001:db8::5]\n\n"
    assert parse_hosts(text) == {"192.168.40.5": "fa:16:3e:54:93:88", "2001:db8::5": "fa:16:3e:54:93:89"}


def test_malformed_lines_are_skipped() -> None:
    text = "garbage\n1 xx 192.168.40.5 a b\n1 fa:16:3e:00:00:01 nowhere a b\nduid 00:01\n1 x 2001:db8::5 a b\n1 7 10.0.0.1 a b\n"
    assert parse_leases(text).leases == ()


def test_leases_are_removed_from_the_text() -> None:
    remaining = without_leases(TEXT, {"192.168.40.5", "2001:db8::6"})
    assert parse_leases(remaining).leases == (SECOND, THIRD)
    assert parse_leases(remaining).server_duid == "00:01:00:01:2b"
