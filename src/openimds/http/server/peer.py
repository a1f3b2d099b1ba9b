"""Who is at the other end of a connection, as its socket tells."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SourceMac = Callable[[Any], str]
"""(a connection's socket) → the MAC that opened it, or nothing."""
GuestOf = Callable[[str, str], str]
"""(MAC or nothing, peer) → who that is: whose connections are counted together."""

_LONGEST_DEVICE_NAME = 16


@dataclass(frozen=True, slots=True)
class Peer:
    """One connection's."""

    address: str = ""
    """Without port; a link-local guest's with its device, `fe80::1%tap0`. Empty on a unix socket."""
    port: int = 0
    mac: str = ""
    """Empty where the listener tells none."""
    guest: str = ""
    """Who is told apart from others by this."""
    is_guest: bool = False
    """It came by a listener that tells MACs: guests themselves connect there."""

    @property
    def key(self) -> bytes:
        """Of a guest, what must be equal for two connections to be the same one's; empty for others."""
        return f"{self.address} {self.mac}\n".encode() if self.is_guest else b""


def peer_of(transport: asyncio.BaseTransport, source_mac: SourceMac | None, guest_of: GuestOf | None = None) -> Peer:
    """Without `guest_of` guests are told apart by MAC, or where there is none by address."""
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
    """The device by which a link-local peer came in, as the socket's own namespace names it: Linux binds the connection to
    it. Empty when there is none.
    """
    try:
        name: bytes = connected.getsockopt(sockets.SOL_SOCKET, sockets.SO_BINDTODEVICE, _LONGEST_DEVICE_NAME)
    except OSError:
        return ""  # it has gone since
    return name.partition(b"\0")[0].decode("ascii", "replace")
