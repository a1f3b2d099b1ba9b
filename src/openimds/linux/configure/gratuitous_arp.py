"""Tells a link that an IPv4 address is at this device now (gratuitous ARP, RFC 5227 section 3)."""

from __future__ import annotations

import ipaddress
import socket
import struct

from openimds.linux.netns import netns

ETHERNET_ARP = 0x0806
BROADCAST = b"\xff" * 6
REQUEST, REPLY = 1, 2
"""Some systems heed one form, some the other: both are sent."""


def announce(namespace: str, device: str, address: str) -> None:
    """At once, without waiting for anybody. Raises OSError (no such device, it is down) and NamespaceMissingError."""
    netns.run_in(namespace, lambda: _send(device, ipaddress.IPv4Address(address).packed))


def _send(device: str, address: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as link:
        link.bind((device, ETHERNET_ARP))
        own_mac: bytes = link.getsockname()[4]
        for operation in (REQUEST, REPLY):
            link.send(arp_frame(operation, own_mac, address))


def arp_frame(operation: int, mac: bytes, address: bytes) -> bytes:
    """An Ethernet frame in which `mac` says to all that `address` is its own."""
    ethernet = BROADCAST + mac + struct.pack("!H", ETHERNET_ARP)
    kinds = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return ethernet + kinds + mac + address + BROADCAST + address
