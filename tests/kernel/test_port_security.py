"""Two instances on one bridge, one of which lies about who it is."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from ipaddress import IPv6Address

import pytest
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS

from openimds.linux import netns
from openimds.linux.errors import ProgramError
from openimds.linux.port_security import PortSecurityTable
from openimds.linux.programs import run
from openimds.resources.network import AddressPair, FixedIP, Port, Subnet
from openimds.wiring.port_security import PortFilter, port_filter
from openimds.wiring.state import Bridge, Device, NamespaceState

pytestmark = pytest.mark.kernel

SUBNETS = [
    Subnet(id="s", network_id="n", project_id="p", cidr="10.7.0.0/24", gateway_ip="10.7.0.254"),
    Subnet(id="s6", network_id="n", project_id="p", cidr="fd00:7::/64", gateway_ip="fd00:7::fe", ip_version=6),
]
LIAR, VICTIM = 1, 2


def port(host: Host, number: int, *, secure: bool = True, pairs: tuple[AddressPair, ...] = ()) -> Port:
    return Port(
        id=f"{host.tag}{number}-0000-4000-8000-000000000000",
        network_id="n",
        project_id="p",
        mac_address=f"fa:16:3e:00:00:0{number}",
        fixed_ips=(FixedIP("s", f"10.7.0.{number}"), FixedIP("s6", f"fd00:7::{number}")),
        port_security_enabled=secure,
        allowed_address_pairs=pairs,
    )


def filters(*ports: Port) -> tuple[PortFilter, ...]:
    return tuple(found for one in ports if (found := port_filter(one, SUBNETS)))


@pytest.fixture
def security(host: Host) -> PortSecurityTable:
    host.kernel.ensure_bridge(Bridge(name=host.bridge(), mtu=1442))
    for number in (LIAR, VICTIM):
        one = port(host, number)
        device = Device(
            name="eth0",
            host_name=one.tap_name,
            bridge=host.bridge(),
            mac_address=one.mac_address,
            mtu=1442,
            addresses=frozenset({f"10.7.0.{number}/24", f"fd00:7::{number}/64"}),
        )
        host.kernel.apply(
            NamespaceState(
                name=host.namespace(f"n{number}"),
                devices=(device,),
                sysctls={"net.ipv6.conf.default.accept_dad": "0"},  # link-local addresses can be used at once
            )
        )
    table = PortSecurityTable(host.prefix)
    table.apply(filters(port(host, LIAR), port(host, VICTIM)))
    return table


def pings(host: Host, *arguments: str) -> bool:
    try:
        run(["ping", "-c", "1", "-W", "1", *arguments], namespace=host.namespace(f"n{LIAR}"))
    except ProgramError:
        return False
    return True


def liar(host: Host, *argv: str) -> None:
    run(argv, namespace=host.namespace(f"n{LIAR}"))


def test_honest_packets_pass(host: Host, security: PortSecurityTable) -> None:
    assert pings(host, "10.7.0.2")
    assert pings(host, "fd00:7::2")
    assert pings(host, "fe80::f816:3eff:fe00:2%eth0")


def test_another_ipv4_address_does_not(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "addr", "add", "10.7.0.3/24", "dev", "eth0")
    assert not pings(host, "-I", "10.7.0.3", "10.7.0.2")
    liar(host, "ip", "addr", "add", "169.254.169.254/32", "dev", "eth0")
    assert not pings(host, "-I", "169.254.169.254", "10.7.0.2")


def test_an_allowed_pair_does(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "addr", "add", "10.7.0.3/24", "dev", "eth0")
    allowed = port(host, LIAR, pairs=(AddressPair("10.7.0.3"),))
    assert security.apply(filters(allowed, port(host, VICTIM))) == (f"set port security of {allowed.tap_name}",)
    assert pings(host, "-I", "10.7.0.3", "10.7.0.2")


def test_another_mac_does_not(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "link", "set", "eth0", "address", "fa:16:3e:00:00:77")
    assert not pings(host, "10.7.0.2")


def test_another_ipv6_address_does_not(host: Host, security: PortSecurityTable) -> None:
    for address in ("fd00:7::3", "fe80::f816:3eff:fe00:3", "fe80::a9fe:a9fe"):
        liar(host, "ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
        source = f"{address}%eth0" if address.startswith("fe80") else address
        assert not pings(host, "-I", source, "fe80::f816:3eff:fe00:2%eth0"), address


def test_a_link_local_address_without_a_mac_in_it_may_be_used(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "addr", "add", "fe80::1234:5678:9abc:def0/64", "dev", "eth0", "nodad")
    assert pings(host, "-I", "fe80::1234:5678:9abc:def0%eth0", "fe80::f816:3eff:fe00:2%eth0")


def test_off_means_off(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "addr", "add", "10.7.0.3/24", "dev", "eth0")
    assert security.apply(filters(port(host, LIAR, secure=False), port(host, VICTIM)))
    assert pings(host, "-I", "10.7.0.3", "10.7.0.2")


def arp_reply(sender_mac: bytes, sender_ip: str) -> bytes:
    body = b"\x00\x01\x08\x00\x06\x04\x00\x02" + sender_mac + socket.inet_aton(sender_ip) + bytes(6) + bytes(4)
    return b"\xff" * 6 + b"\xfa\x16\x3e\x00\x00\x01" + b"\x08\x06" + body


def neighbour(kind: int, target: str, source: str = "fe80::f816:3eff:fe00:1", *, options: bytes = b"") -> bytes:
    """ICMPv6 with a target address, to all nodes; the victim checks no more than we want. `options`: a whole
    destination options header before it, which some guards stop at (RFC 7113).
    """
    icmp = bytes([kind]) + b"\x00\x00\x00\xa0\x00\x00\x00" + IPv6Address(target).packed
    return ipv6(source, 60 if options else 58, options + icmp)


def ipv6(source: str, next_header: int, payload: bytes, mac: bytes = b"\xfa\x16\x3e\x00\x00\x01") -> bytes:
    addresses = IPv6Address(source).packed + IPv6Address("ff02::1").packed
    header = b"\x60\x00\x00\x00" + len(payload).to_bytes(2) + bytes([next_header]) + b"\xff" + addresses
    return b"\x33\x33\x00\x00\x00\x01" + mac + b"\x86\xdd" + header + payload


def advertisement(target: str) -> bytes:
    return neighbour(136, target)


def probe(target: str) -> bytes:
    """Duplicate address detection's question."""
    return neighbour(135, target, "::")


def udp(source_port: int, to_port: int, source: str = "10.7.0.1", mac: bytes = b"\xfa\x16\x3e\x00\x00\x01") -> bytes:
    datagram = source_port.to_bytes(2) + to_port.to_bytes(2) + b"\x00\x08\x00\x00"
    header = b"\x45\x00\x00\x1c\x00\x00\x00\x00\x40\x11\x00\x00" + socket.inet_aton(source) + b"\xff" * 4
    total = sum(int.from_bytes(header[at : at + 2]) for at in range(0, len(header), 2))
    checksum = 0xFFFF - (total % 0xFFFF)  # a host with bridge-nf-call-iptables drops malformed packets by itself
    header = header[:10] + checksum.to_bytes(2) + header[12:]
    return b"\xff" * 6 + mac + b"\x08\x00" + header + datagram


def udp6(source_port: int, to_port: int, source: str = "fe80::f816:3eff:fe00:1") -> bytes:
    return ipv6(source, 17, source_port.to_bytes(2) + to_port.to_bytes(2) + b"\x00\x08\x12\x34")


def router_advertisement(options: bytes = b"") -> bytes:
    return neighbour(134, "::", options=options)


PADDING = b"\x3a\x00\x01\x04" + bytes(4)  # a destination options header of 8 bytes, ICMPv6 next
OTHER_MAC = b"\xfa\x16\x3e\x00\x00\x02"
OWN_MAC = b"\xfa\x16\x3e\x00\x00\x01"
TAGGED = b"\xff" * 6 + OWN_MAC + b"\x81\x00\x00\x05\x08\x00" + bytes(46)


def arrives(host: Host, frame: bytes) -> bool:
    """Whether the victim's device sees this very frame."""

    def opened() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.bind(("eth0", 0))
        return raw

    receiver: socket.socket = netns.in_namespace(host.namespace(f"n{VICTIM}"), opened)
    sender: socket.socket = netns.in_namespace(host.namespace(f"n{LIAR}"), opened)
    marker = b"\xff" * 6 + OWN_MAC + b"\x08\x06" + arp_reply(OWN_MAC, "10.7.0.1")[14:] + b"end"
    with receiver, sender:
        receiver.settimeout(HANG_SECONDS)
        sender.send(frame)
        sender.send(marker)  # passes: when it is there, the frame is or never will be
        return _seen(receiver.recv, frame, marker)


def _seen(receive: Callable[[int], bytes], frame: bytes, marker: bytes) -> bool:
    while True:
        got = receive(2000)
        if got.startswith(frame):
            return True
        if got.startswith(marker):
            return False


def dropped(host: Host) -> int:
    """How many packets of the liar's the table has counted as dropped."""
    table = next(line for line in run(["nft", "list", "tables"]).splitlines() if "bridge" in line and host.tag in line)
    chain = run(["nft", "list", "chain", *table.split()[1:], port(host, LIAR).tap_name])
    return sum(int(count) for count in re.findall(r"counter packets (\d+) bytes \d+ drop", chain))


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
    ("DHCP question", udp(68, 67), True),
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
]


@pytest.mark.parametrize(("what", "frame", "expected"), FRAMES, ids=[what for what, _, _ in FRAMES])
def test_frames(host: Host, security: PortSecurityTable, what: str, frame: bytes, expected: bool) -> None:
    """Really sent; seen to arrive, or not to arrive and to be counted."""
    before = dropped(host)
    assert arrives(host, frame) is expected, what
    if not expected:
        assert dropped(host) > before


@pytest.mark.parametrize("frame", [*[frame for _, frame, expected in FRAMES if not expected][:3], udp(67, 68)])
def test_a_port_without_port_security_may_send_anything(host: Host, security: PortSecurityTable, frame: bytes) -> None:
    security.apply(filters(port(host, LIAR, secure=False), port(host, VICTIM)))
    assert arrives(host, frame)


def test_pairs_open_what_they_name_and_no_more(host: Host, security: PortSecurityTable) -> None:
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
        assert dropped(host) > before


def test_what_is_right_is_left_alone_and_what_is_broken_is_repaired(host: Host, security: PortSecurityTable) -> None:
    wanted = filters(port(host, LIAR), port(host, VICTIM))
    assert security.apply(wanted) == ()
    assert PortSecurityTable(host.prefix).apply(wanted) == ()
    table = next(line for line in run(["nft", "list", "tables"]).splitlines() if "bridge" in line and host.tag in line)
    run(["nft", "delete", *table.split()])
    assert security.apply(wanted)
    assert security.apply(wanted) == ()
    assert security.taps() == {one.tap for one in wanted}
    assert security.apply(wanted[:1]) == (f"remove port security of {wanted[1].tap}",)
    assert security.taps() == {wanted[0].tap}
