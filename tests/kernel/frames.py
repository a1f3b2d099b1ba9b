"""Forged Ethernet frames, built byte by byte."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address

PADDING = b"\x3a\x00\x01\x04" + bytes(4)  # a destination options header of 8 bytes, followed by ICMPv6
OTHER_MAC = b"\xfa\x16\x3e\x00\x00\x02"
OWN_MAC = b"\xfa\x16\x3e\x00\x00\x01"
TAGGED = b"\xff" * 6 + OWN_MAC + b"\x81\x00\x00\x05\x08\x00" + bytes(46)


def arp_reply(sender_mac: bytes, sender_ip: str) -> bytes:
    body = b"\x00\x01\x08\x00\x06\x04\x00\x02" + sender_mac + socket.inet_aton(sender_ip) + bytes(6) + bytes(4)
    return b"\xff" * 6 + b"\xfa\x16\x3e\x00\x00\x01" + b"\x08\x06" + body


def neighbour(kind: int, target: str, source: str = "fe80::f816:3eff:fe00:1", *, options: bytes = b"") -> bytes:
    """An ICMPv6 message with a target address, sent to all nodes.

    It is only as valid as the victim's filter requires. `options` is a complete destination options header in front of
    the message, which some filters do not look behind (RFC 7113).
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
    """A neighbour solicitation of duplicate address detection."""
    return neighbour(135, target, "::")


def udp(
    source_port: int,
    to_port: int,
    source: str = "10.7.0.1",
    mac: bytes = b"\xfa\x16\x3e\x00\x00\x01",
    *,
    payload: bytes = b"",
) -> bytes:
    datagram = source_port.to_bytes(2) + to_port.to_bytes(2) + (8 + len(payload)).to_bytes(2) + b"\x00\x00" + payload
    length = (20 + len(datagram)).to_bytes(2)
    header = b"\x45\x00" + length + b"\x00\x00\x00\x00\x40\x11\x00\x00" + socket.inet_aton(source) + b"\xff" * 4
    return b"\xff" * 6 + mac + b"\x08\x00" + with_checksum(header) + datagram


def udp6(source_port: int, to_port: int, source: str = "fe80::f816:3eff:fe00:1", *, payload: bytes = b"") -> bytes:
    length = (8 + len(payload)).to_bytes(2)
    return ipv6(source, 17, source_port.to_bytes(2) + to_port.to_bytes(2) + length + b"\x12\x34" + payload)


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """The frame with 802.1Q or 802.1ad tags, the outermost first, each as (EtherType, tag control information)."""
    inserted = b"".join(kind.to_bytes(2) + control.to_bytes(2) for kind, control in tags)
    return frame[:12] + inserted + frame[12:]


def snap(frame: bytes) -> bytes:
    """The frame as 802.3 with LLC and SNAP headers (RFC 1042)."""
    payload = b"\xaa\xaa\x03\x00\x00\x00" + frame[12:]
    return frame[:12] + len(payload).to_bytes(2) + payload


def fragments(frame: bytes, first_bytes: int, number: int = 7) -> tuple[bytes, bytes]:
    """An IPv4 or IPv6 frame in two fragments. `size` of the first payload is a multiple of 8."""
    if frame[12:14] == b"\x08\x00":
        return _ipv4_fragments(frame, first_bytes, number)
    ethernet, header, payload = frame[:14], frame[14:54], frame[54:]

    def fragment(offset: int, part: bytes, more: bool) -> bytes:
        extension = header[6:7] + b"\x00" + (offset | more).to_bytes(2) + number.to_bytes(4)
        return ethernet + header[:4] + (8 + len(part)).to_bytes(2) + b"\x2c" + header[7:] + extension + part

    return fragment(0, payload[:first_bytes], True), fragment(first_bytes, payload[first_bytes:], False)


def _ipv4_fragments(frame: bytes, first_bytes: int, number: int) -> tuple[bytes, bytes]:
    ethernet, header, payload = frame[:14], frame[14:34], frame[34:]

    def fragment(offset: int, part: bytes, more: bool) -> bytes:
        flags = (0x2000 if more else 0) | offset // 8
        head = header[:2] + (20 + len(part)).to_bytes(2) + number.to_bytes(2) + flags.to_bytes(2) + header[8:10]
        return ethernet + with_checksum(head + bytes(2) + header[12:]) + part

    return fragment(0, payload[:first_bytes], True), fragment(first_bytes, payload[first_bytes:], False)


def with_checksum(header: bytes) -> bytes:
    """The frame with a valid IPv4 header checksum. A host with bridge-nf-call-iptables drops malformed packets itself."""
    total = sum(int.from_bytes(header[at : at + 2]) for at in range(0, len(header), 2))
    return header[:10] + (0xFFFF - (total % 0xFFFF)).to_bytes(2) + header[12:]


def arp_probe(address: str) -> bytes:
    """An ARP probe, which asks whether another host has the address (RFC 5227)."""
    body = b"\x00\x01\x08\x00\x06\x04\x00\x01" + OWN_MAC + bytes(4) + bytes(6) + socket.inet_aton(address)
    return b"\xff" * 6 + OWN_MAC + b"\x08\x06" + body


def bootrequest(client_mac: bytes, *, source: str = "0.0.0.0", from_port: int = 68, hlen: int = 6) -> bytes:
    """A message to a DHCP server with this client's hardware address (`chaddr`)."""
    message = bytes([1, 1, hlen, 0]) + bytes(24) + client_mac + bytes(202) + b"\x63\x82\x53\x63\x35\x01\x04\xff"
    return udp(from_port, 67, source, payload=message)


def router_advertisement(options: bytes = b"") -> bytes:
    return neighbour(134, "::", options=options)
