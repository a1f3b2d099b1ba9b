"""The other end of a connection, as its socket shows it."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SourceMac = Callable[[Any], str]
"""Takes the socket of a connection. Returns the MAC that opened it, or ""."""
GuestOf = Callable[[str, str], str]
"""Takes the MAC (or "") and the address of a client. Returns the key that its connections are counted by."""

_LONGEST_DEVICE_NAME = 16


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of one connection."""

    address: str = ""
    """Without the port. A link-local address has its device: `fe80::1%tap0`. Empty on a unix socket."""
    port: int = 0
    mac: str = ""
    """Empty if the listener does not know MACs."""
    guest: str = ""
    """The key that the client's connections are counted by."""
    is_guest: bool = False
    """True on a listener with `source_mac`, to which clients connect themselves."""

    @property
    def key(self) -> bytes:
        """The part of a response cache key that identifies the client. Empty if the request's bytes identify it."""
        return f"{self.address} {self.mac}\n".encode() if self.is_guest else b""


def peer_of(transport: asyncio.BaseTransport, source_mac: SourceMac | None, guest_of: GuestOf | None = None) -> Peer:
    """Returns the peer. Without `guest_of`, clients are counted by MAC, or by address if the MAC is unknown."""
    name = transport.get_extra_info("peername")
    address, port = (str(name[0]), int(name[1])) if isinstance(name, tuple) and name else ("", 0)
    if source_mac is None:
        return Peer(address, port, guest=(guest_of or _by_mac)("", address))
    connected = transport.get_extra_info("socket")
    if isinstance(name, tuple) and len(name) == 4 and name[3]:  # IPv6, with a scope
        address = f"{address.partition('%')[0]}%{_device_of(connected)}"
    mac = source_mac(connected)
    return Peer(address, port, mac, (guest_of or _by_mac)(mac, address), is_guest=True)


def _by_mac(mac: str, address: str) -> str:
    return mac or address


def _device_of(connected: Any) -> str:
    """Returns the device of a link-local peer in the socket's namespace. Linux binds the connection to it.

    Empty if the device is gone.
    """
    try:
        name: bytes = connected.getsockopt(sockets.SOL_SOCKET, sockets.SO_BINDTODEVICE, _LONGEST_DEVICE_NAME)
    except OSError:
        return ""
    return name.partition(b"\0")[0].decode("ascii", "replace")
