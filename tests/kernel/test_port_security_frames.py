"""Forged frames, one by one: which of them arrive."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

import pytest
from tests.kernel import port_security_stage
from tests.kernel.frames import (
    OTHER_MAC,
    OWN_MAC,
    PADDING,
    TAGGED,
    advertisement,
    arp_probe,
    arp_reply,
    bootrequest,
    fragments,
    ipv6,
    neighbour,
    probe,
    router_advertisement,
    snap,
    tagged,
    udp,
    udp6,
    with_checksum,
)
from tests.kernel.port_security_stage import LIAR, VICTIM, dropped, filters, port
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS, until

from openimds.linux.firewall.port_security import PortSecurityTable
from openimds.linux.netns import netns
from openimds.resources.network import AddressPair

pytestmark = pytest.mark.kernel

security = port_security_stage.security


def arrives(host: Host, frame: bytes) -> bool:
    """True if the victim's device receives this frame."""

    def opened() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.bind(("eth0", 0))
        return raw

    receiver: socket.socket = netns.run_in(host.namespace(f"n{VICTIM}"), opened)
    sender: socket.socket = netns.run_in(host.namespace(f"n{LIAR}"), opened)
    marker = b"\xff" * 6 + OWN_MAC + b"\x08\x06" + arp_reply(OWN_MAC, "10.7.0.1")[14:] + b"end"
    with receiver, sender:
        receiver.settimeout(HANG_SECONDS)
        sender.send(frame)
        sender.send(marker)  # A frame that passes. Once it has arrived, the forged frame has arrived or never will.
        return _seen(receiver.recv, frame, marker)


def _seen(receive: Callable[[int], bytes], frame: bytes, marker: bytes) -> bool:
    while True:
        got = receive(2000)
        if got.startswith(frame):
            return True
        if got.startswith(marker):
            return False


def replaced(at: int, new: bytes, data: bytes) -> bytes:
    """The data with other bytes at one place."""
    return data[:at] + new + data[at + len(new) :]


DHCPV6_ANSWER = b"\x11\x00\x01\x04" + bytes(4) + b"\x02\x23\x02\x22\x00\x48\x12\x34" + b"x" * 64
"""A destination options header of 8 bytes, then UDP from port 547 to 546."""

FRAMES = [
    ("ARP for its own address", arp_reply(OWN_MAC, "10.7.0.1"), True),
    ("ARP for another's", arp_reply(OWN_MAC, "10.7.0.2"), False),
    ("ARP for the metadata service", arp_reply(OWN_MAC, "169.254.169.254"), False),
    ("ARP for the gateway", arp_reply(OWN_MAC, "10.7.0.254"), False),
    ("ARP with another's MAC inside", arp_reply(b"\xfa\x16\x3e\x00\x00\x02", "10.7.0.1"), False),
    ("neighbour advertisement of its own address", advertisement("fd00:7::1"), True),
    ("… of its own link-local address", advertisement("fe80::f816:3eff:fe00:1"), True),
    ("… of a link-local address without a MAC", advertisement("fe80::1234:5678:9abc:def0"), True),
    ("… of another's", advertisement("fd00:7::2"), False),
    ("… of another's link-local address", advertisement("fe80::f816:3eff:fe00:2"), False),
    ("… of the metadata service", advertisement("fe80::a9fe:a9fe"), False),
    ("… of the metadata service behind an extension header", neighbour(136, "fe80::a9fe:a9fe", options=PADDING), False),
    ("… of the gateway", advertisement("fd00:7::fe"), False),
    ("detection of a duplicate of its own address", probe("fd00:7::1"), True),
    ("… of its own link-local address", probe("fe80::f816:3eff:fe00:1"), True),
    ("… of a link-local address without a MAC", probe("fe80::1234:5678:9abc:def0"), True),
    ("… of the metadata service", probe("fe80::a9fe:a9fe"), False),
    ("… of the gateway", probe("fd00:7::fe"), False),
    ("… of another's", probe("fe80::f816:3eff:fe00:2"), False),
    ("router advertisement", router_advertisement(), False),
    ("router advertisement behind an extension header", router_advertisement(PADDING), False),
    ("IPv6 redirect", neighbour(137, "fd00:7::1"), False),
    ("router solicitation", neighbour(133, "::"), True),
    ("DHCP question", bootrequest(OWN_MAC), True),
    ("DHCP answer", udp(67, 68), False),
    ("DHCP answer from another port", udp(6767, 68), False),
    ("DHCPv6 question", udp6(546, 547), True),
    ("DHCPv6 answer", udp6(547, 546), False),
    ("DHCPv6 answer from another port", udp6(5470, 546), False),
    ("own address", udp(4000, 4000), True),
    ("another's address", udp(4000, 4000, "10.7.0.2"), False),
    ("an address of nobody's", udp(4000, 4000, "192.0.2.9"), False),
    ("no address", udp(4000, 4000, "0.0.0.0"), False),
    ("the metadata service's address", udp(80, 4000, "169.254.169.254"), False),
    ("the gateway's address", udp(4000, 4000, "10.7.0.254"), False),
    ("another's MAC", udp(4000, 4000, mac=OTHER_MAC), False),
    ("another's MAC and address", udp(4000, 4000, "10.7.0.2", OTHER_MAC), False),
    ("another's IPv6 address", udp6(4000, 4000, "fd00:7::2"), False),
    ("another's link-local address", udp6(4000, 4000, "fe80::f816:3eff:fe00:2"), False),
    ("the metadata service's IPv6 address", udp6(80, 4000, "fe80::a9fe:a9fe"), False),
    ("the gateway's IPv6 address", udp6(4000, 4000, "fd00:7::fe"), False),
    ("VLAN tag", TAGGED, False),
    ("DHCP answer in an 802.1Q tag", tagged(udp(67, 68), (0x8100, 5)), False),
    ("… in a priority tag (VID 0)", tagged(udp(67, 68), (0x8100, 0x2000)), False),
    ("… in an 802.1ad tag", tagged(udp(67, 68), (0x88A8, 5)), False),
    ("… in nested tags", tagged(udp(67, 68), (0x88A8, 5), (0x8100, 6)), False),
    ("… in nested tags with VID 0", tagged(udp(67, 68), (0x8100, 0), (0x8100, 0)), False),
    ("… in LLC and SNAP headers", snap(udp(67, 68)), False),
    ("own address in an 802.1Q tag", tagged(udp(4000, 4000), (0x8100, 5)), False),
    ("own address in LLC and SNAP headers", snap(udp(4000, 4000)), False),
    ("IPv6 of its own in a priority tag", tagged(udp6(4000, 4000), (0x8100, 0)), False),
    ("router advertisement in a tag", tagged(router_advertisement(), (0x8100, 5)), False),
    ("ARP of its own in a tag", tagged(arp_reply(OWN_MAC, "10.7.0.1"), (0x8100, 5)), False),
    ("ARP probe for its own address", arp_probe("10.7.0.1"), True),
    ("ARP probe for another's address", arp_probe("10.7.0.2"), False),
    ("ARP probe for the metadata service", arp_probe("169.254.169.254"), False),
    (
        "ARP with addresses of another length",
        arp_reply(OWN_MAC, "10.7.0.1").replace(b"\x06\x04", b"\x06\x06", 1),
        False,
    ),
    ("DHCP message from its own address", bootrequest(OWN_MAC, source="10.7.0.1"), True),
    ("DHCP message in another's name", bootrequest(OTHER_MAC), False),
    ("… from its own address", bootrequest(OTHER_MAC, source="10.7.0.1"), False),
    ("… from another port", bootrequest(OTHER_MAC, source="10.7.0.1", from_port=5000), False),
    ("… without a hardware address", bootrequest(OTHER_MAC, source="10.7.0.1", hlen=0), False),
    ("DHCPv6 decline", udp6(546, 547, payload=b"\x09\x00\x00\x01"), False),
    ("DHCPv6 release", udp6(546, 547, payload=b"\x08\x00\x00\x01"), False),
    ("DHCPv6 message of a relay agent", udp6(546, 547, payload=b"\x0c\x00" + bytes(32)), False),
    ("DHCPv6 answer to a relay agent", udp6(547, 547, payload=b"\x0d\x00" + bytes(32)), False),
    ("DHCPv6 message of an unknown type", udp6(546, 547, payload=b"\xff\x00\x00\x01"), False),
    *(
        (f"DHCPv6 message of type {kind}", udp6(546, 547, payload=bytes([kind, 0, 0, 1])), True)
        for kind in (3, 4, 5, 6, 11)
    ),
    ("DHCPv6 solicit", udp6(546, 547, payload=b"\x01\x00\x00\x01"), True),
]
INVALID_HEADERS = [
    *(
        (f"{what}, {fault}", frame[:14] + with_checksum(change(frame[14:34])) + frame[34:], False)
        for what, frame in (("DHCP answer", udp(67, 68)), ("own address", udp(4000, 4000, payload=b"x" * 40)))
        for fault, change in (
            *((f"IP version {version}", partial(replaced, 0, bytes([version << 4 | 5]))) for version in (0, 5, 6, 15)),
            *((f"header length {length}", partial(replaced, 0, bytes([0x40 | length]))) for length in (0, 4, 15)),
            *((f"total length {length}", partial(replaced, 2, length.to_bytes(2))) for length in (0, 10, 2000)),
        )
        if (what, fault) != ("own address", "header length 15")  # it fits, as a header with 40 bytes of options
    ),
    ("own IPv6 address, IP version 4", replaced(14, b"\x40", udp6(4000, 4000)), False),
    ("DHCPv6 answer, IP version 5", replaced(14, b"\x50", udp6(547, 546)), False),
    ("router advertisement, IP version 15", replaced(14, b"\xf0", router_advertisement()), False),
    ("DHCPv6 answer, payload length beyond the frame", replaced(18, b"\x07\x00", udp6(547, 546)), False),
]
"""nftables finds no transport protocol in these, so that a rule on a port does not match. Some DHCP clients accept them,
because they read frames by themselves."""
FRAMES += INVALID_HEADERS
LONG = b"x" * 64
DATAGRAMS = [
    ("IPv4 of its own", udp(4000, 4000, payload=LONG), 16, True),
    ("IPv6 of its own", udp6(4000, 4000, payload=LONG), 16, True),
    ("ping of its own", ipv6("fe80::f816:3eff:fe00:1", 58, b"\x80\x00\x00\x00\x00\x01\x00\x01" + LONG), 16, True),
    ("another's address", udp(4000, 4000, "10.7.0.2", payload=LONG), 16, False),
    ("another's IPv6 address", udp6(4000, 4000, "fd00:7::2", payload=LONG), 16, False),
    ("DHCP answer", udp(67, 68, payload=LONG), 16, False),
    ("DHCP answer without its header in the first", udp(67, 68, payload=LONG), 0, False),
    ("DHCP message in another's name", bootrequest(OTHER_MAC, source="10.7.0.1"), 16, False),
    ("DHCPv6 answer", udp6(547, 546, payload=LONG), 16, False),
    ("DHCPv6 answer behind options", ipv6("fe80::f816:3eff:fe00:1", 60, DHCPV6_ANSWER), 8, False),
    ("router advertisement behind options", router_advertisement(PADDING), 8, False),
    ("neighbour advertisement behind options", neighbour(136, "fe80::a9fe:a9fe", options=PADDING), 8, False),
    ("its own advertisement behind options", neighbour(136, "fd00:7::1", options=PADDING), 8, False),
]
"""(Name, complete frame, bytes of payload in the first fragment, whether both fragments arrive)."""


@pytest.mark.parametrize(("what", "frame", "expected"), FRAMES, ids=[what for what, _, _ in FRAMES])
def test_forged_frame_is_dropped_and_own_frame_arrives(
    host: Host, security: PortSecurityTable, what: str, frame: bytes, expected: bool
) -> None:
    """Each frame is sent. It must arrive, or be counted as dropped and not arrive."""
    before = dropped(host)
    assert arrives(host, frame) is expected, what
    if not expected:
        until(lambda: dropped(host) > before)


@pytest.mark.parametrize(
    ("number", "frame", "first_bytes", "expected"),
    [(number, *values[1:]) for number, values in enumerate(DATAGRAMS)],
    ids=[what for what, *_ in DATAGRAMS],
)
def test_fragment_passes_only_after_a_first_one_with_transport_header(
    host: Host, security: PortSecurityTable, number: int, frame: bytes, first_bytes: int, expected: bool
) -> None:
    """The first fragment must contain the transport header. Later fragments pass only after it."""
    first, second = fragments(frame, first_bytes, number=100 + number)
    assert not arrives(host, second), "a later fragment alone"
    assert arrives(host, first) is expected
    assert arrives(host, second) is expected


@pytest.mark.parametrize("frame", [*[frame for _, frame, expected in FRAMES if not expected][:3], udp(67, 68)])
def test_port_without_port_security_sends_any_frame(host: Host, security: PortSecurityTable, frame: bytes) -> None:
    security.apply(filters(port(host, LIAR, secure=False), port(host, VICTIM)))
    assert arrives(host, frame)


def test_address_pairs_allow_only_their_addresses(host: Host, security: PortSecurityTable) -> None:
    pairs = (AddressPair("10.7.0.0/24"), AddressPair("fd00:7::/64"), AddressPair("10.7.0.9", "fa:16:3e:00:00:02"))
    security.apply(filters(port(host, LIAR, pairs=pairs), port(host, VICTIM)))
    assert arrives(host, udp(4000, 4000, "10.7.0.77"))
    assert arrives(host, arp_reply(OWN_MAC, "10.7.0.77"))
    assert arrives(host, advertisement("fd00:7::77"))
    assert arrives(host, udp(4000, 4000, "10.7.0.9", OTHER_MAC))
    for refused in (
        udp(4000, 4000, "10.7.0.77", OTHER_MAC),
        udp(4000, 4000, "10.7.0.254"),
        arp_reply(OWN_MAC, "10.7.0.254"),
        advertisement("fd00:7::fe"),
        udp(4000, 4000, "10.8.0.1"),
    ):
        before = dropped(host)
        assert not arrives(host, refused)
        until(lambda before=before: dropped(host) > before)  # type: ignore[misc]
