"""Source addresses."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openimds.guest_identity.addresses import canonical, mac_from_eui64, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5", "10.0.0.5"),
        (" 10.0.0.5 ", "10.0.0.5"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("::FFFF:0a00:0005", "10.0.0.5"),
        ("FD00:0:0:0::1", "fd00::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1]", "fe80::1"),
    ],
)
def test_spellings_of_an_address_are_normalised(text, address):
    assert canonical(text) == address


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.5:80", "10.0.0.5, 10.0.0.6", "localhost", "010.0.0.5", "1" * 500]
)
def test_other_text_is_not_an_address(text):
    with pytest.raises(ValueError, match="is not an IP address"):
        parse_address(text)


@pytest.mark.parametrize(
    ("address", "mac"),
    [
        ("fe80::f816:3eff:fe54:9388", "fa:16:3e:54:93:88"),
        ("fe80::0200:00ff:fe00:0001", "00:00:00:00:00:01"),
        ("fe80::a9fe:a9fe", None),
        ("fe80::1234:5678:9abc:def0", None),
        ("fd00::f816:3eff:fe54:9388", None),
        ("10.0.0.5", None),
    ],
)
def test_the_mac_is_read_from_an_eui64_address(address, mac):
    assert mac_from_eui64(ip_address(address)) == mac


@given(st.binary(min_size=6, max_size=6))
def test_every_mac_is_recovered_from_its_eui64_address(mac):
    interface = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    address = ip_address(b"\xfe\x80" + bytes(6) + interface)
    assert mac_from_eui64(address) == mac.hex(":")
