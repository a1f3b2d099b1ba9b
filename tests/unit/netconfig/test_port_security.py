"""The text of a port's chain."""

from __future__ import annotations

import dataclasses

import pytest

from openimds.netconfig.port_security import chain_lines, chains_in, port_filter
from openimds.resources.network import AddressPair, FixedIP, Port, Subnet

PORT = Port(
    id="01e7ee7b-9800-4000-8000-000000000000",
    network_id="n",
    project_id="p",
    mac_address="fa:16:3e:00:00:01",
    fixed_ips=(FixedIP("s", "10.7.0.1"), FixedIP("s6", "fd00:7::1")),
)
SUBNETS = [Subnet(id="s", network_id="n", project_id="p", cidr="10.7.0.0/24", gateway_ip="10.7.0.254")]


def lines_of(port: Port, subnets: list[Subnet] = SUBNETS) -> tuple[str, ...]:
    found = port_filter(port, subnets)
    assert found is not None
    return chain_lines(found)


def test_port_without_port_security_has_no_filter():
    assert port_filter(dataclasses.replace(PORT, port_security_enabled=False), SUBNETS) is None


def test_port_sends_only_from_its_own_addresses():
    assert lines_of(PORT) == (
        "ether saddr != fa:16:3e:00:00:01 counter drop",
        "ether type != { ip, arp, ip6 } counter drop",
        "arp htype != 1 counter drop",
        "arp ptype != ip counter drop",
        "arp hlen != 6 counter drop",
        "arp plen != 4 counter drop",
        "arp operation != { request, reply } counter drop",
        "arp saddr ip { 10.7.0.254, 169.254.169.254 } counter drop",
        "ether saddr fa:16:3e:00:00:01 arp saddr ether fa:16:3e:00:00:01 arp saddr ip 10.7.0.1 accept",
        "ether saddr fa:16:3e:00:00:01 arp operation request arp saddr ether fa:16:3e:00:00:01 arp saddr ip 0.0.0.0 arp daddr ip 10.7.0.1 accept",
        "ether type arp counter drop",
        "ip saddr { 10.7.0.254, 169.254.169.254 } counter drop",
        "ip frag-off & 8191 != 0 meta l4proto != 255 iifname . ip saddr . ip daddr . ip id @datagrams4 accept",
        "ip frag-off & 8191 != 0 counter drop",
        "ether type ip udp dport 68 counter drop",
        "ether saddr fa:16:3e:00:00:01 ip saddr 0.0.0.0 ip frag-off & 16383 == 0 udp sport 68 udp dport 67 @th,64,24 0x10106 @th,288,48 0xfa163e000001 accept",
        "ether saddr fa:16:3e:00:00:01 ip saddr 10.7.0.1 ip frag-off & 16383 == 0 udp dport 67 @th,64,24 0x10106 @th,288,48 0xfa163e000001 accept",
        "ether type ip udp dport 67 counter drop",
        "ip frag-off & 16383 == 0 ether saddr fa:16:3e:00:00:01 ip saddr 10.7.0.1 meta l4proto != 255 accept",
        "ip frag-off & 16383 == 8192 ether saddr fa:16:3e:00:00:01 ip saddr 10.7.0.1 meta l4proto != 255 @th,0,64 & 0x0 == 0x0 limit rate 10000/second burst 10000 packets update @datagrams4 { iifname . ip saddr . ip daddr . ip id } accept",
        "ether type ip counter drop",
        "ip6 saddr fe80::a9fe:a9fe counter drop",
        "ether saddr fa:16:3e:00:00:01 ip6 saddr != { ::, fd00:7::1, fe80::/64 } counter drop",
        "ether saddr fa:16:3e:00:00:01 ip6 saddr & ::ff:ff00:0 == ::ff:fe00:0 ip6 saddr != { fd00:7::1, fe80::f816:3eff:fe00:1 } counter drop",
        "exthdr frag exists frag frag-off != 0 meta l4proto != 255 iifname . ip6 saddr . ip6 daddr . frag id @datagrams6 accept",
        "exthdr frag exists frag frag-off != 0 counter drop",
        "icmpv6 type { nd-router-advert, nd-redirect } counter drop",
        "ether type ip6 udp dport 546 counter drop",
        "ether type ip6 udp dport 547 @th,64,8 != { 0x1, 0x3, 0x4, 0x5, 0x6, 0xb } counter drop",
        "icmpv6 type nd-neighbor-advert @th,64,128 0xfe8000000000000000000000a9fea9fe counter drop",
        "icmpv6 type nd-neighbor-advert @th,64,128 0xfd000007000000000000000000000001 accept",
        "icmpv6 type nd-neighbor-advert @th,64,128 0xfe80000000000000f8163efffe000001 accept",
        "icmpv6 type nd-neighbor-advert @th,64,64 0xfe80000000000000 @th,152,16 != 0xfffe accept",
        "icmpv6 type nd-neighbor-advert counter drop",
        "ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 0xfe8000000000000000000000a9fea9fe counter drop",
        "ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 0xfd000007000000000000000000000001 accept",
        "ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 0xfe80000000000000f8163efffe000001 accept",
        "ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,64 0xfe80000000000000 @th,152,16 != 0xfffe accept",
        "ip6 saddr :: icmpv6 type nd-neighbor-solicit counter drop",
        "ip6 saddr :: icmpv6 type { mld-listener-report, nd-router-solicit, mld2-listener-report } accept",
        "ip6 saddr :: counter drop",
        "exthdr frag missing meta l4proto != 255 accept",
        "exthdr frag exists meta l4proto != 255 @th,0,64 & 0x0 == 0x0 limit rate 10000/second burst 10000 packets update @datagrams6 { iifname . ip6 saddr . ip6 daddr . frag id } accept",
        "counter drop",
    )


def test_address_pairs_are_bound_to_their_mac():
    pairs = (AddressPair("10.8.0.0/16"), AddressPair("10.7.0.1/32"), AddressPair("0.0.0.0/0", "FA:16:3E:00:00:99"))
    lines = lines_of(dataclasses.replace(PORT, allowed_address_pairs=pairs))
    assert lines[0] == "ether saddr != { fa:16:3e:00:00:01, fa:16:3e:00:00:99 } counter drop"
    whole = "ip frag-off & 16383 == 0"
    assert (
        f"{whole} ether saddr fa:16:3e:00:00:01 ip saddr {{ 10.7.0.1, 10.8.0.0/16 }} meta l4proto != 255 accept"
        in lines
    )
    assert f"{whole} ether saddr fa:16:3e:00:00:99 ip saddr 0.0.0.0/0 meta l4proto != 255 accept" in lines


def test_any_pair_still_claims_neither_gateway_nor_metadata_service():
    lines = lines_of(dataclasses.replace(PORT, allowed_address_pairs=(AddressPair("::/0"), AddressPair("0.0.0.0/0"))))
    assert lines.index("ip saddr { 10.7.0.254, 169.254.169.254 } counter drop") < lines.index(
        "ip frag-off & 16383 == 0 ether saddr fa:16:3e:00:00:01 ip saddr 0.0.0.0/0 meta l4proto != 255 accept"
    )
    assert "icmpv6 type nd-neighbor-advert accept" in lines


def test_port_with_the_gateway_address_may_use_it():
    port = dataclasses.replace(PORT, fixed_ips=(FixedIP("s", "10.7.0.254"),))
    assert "ip saddr 169.254.169.254 counter drop" in lines_of(port)


@pytest.mark.parametrize(
    "broken",
    [
        {"mac_address": "fa:16:3e:00:00:01 accept; flush ruleset"},
        {"id": "x { } ; flush"},
        {"fixed_ips": (FixedIP("s", "10.7.0.1; flush ruleset"),)},
    ],
)
def test_malformed_port_is_rejected(broken):
    with pytest.raises(ValueError):
        port_filter(dataclasses.replace(PORT, **broken), SUBNETS)


def test_chains_are_parsed_without_counts():
    listing = (
        "table bridge openimds {\n\tchain tap01e7ee7b-98 {\n\t\tip saddr :: counter packets 3 bytes 9 drop\n\t}\n\n"
        "\tchain prerouting {\n\t\tiifname vmap @instances\n\t}\n}\n"
    )
    assert chains_in(listing) == {
        "tap01e7ee7b-98": ("ip saddr :: counter drop",),
        "prerouting": ("iifname vmap @instances",),
    }
