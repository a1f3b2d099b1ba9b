"""Ethernet frames as somebody writes them who lies: octet by octet."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address

PADDING = b"\x3a\x00\x01\x04" + bytes(4)  # a destination options header of 8 bytes, ICMPv6 next
OTHER_MAC = b"\xfa\x16\x3e\x00\x00\x02"
OWN_MAC = b"\xfa\x16\x3e\x00\x00\x01"
TAGGED = b"\xff" * 6 + OWN_MAC + b"\x81\x00\x00\x05\x08\x00" + bytes(46)


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
