"""How many hops one connection's packets may go: an answer that must not leave the guest is sent with a low IP TTL.

The kernel gives every packet of a socket the socket's TTL, also when it sends again what was lost. So the low one is
set while nothing else is on its way, and taken back when everything was acknowledged: who did not get the answer,
because it is too many hops away, does not get it by a retransmission either.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket as sockets
import struct
import termios
from typing import Any

SETTLE_SECONDS = 1.0
"""How long an answer waits for the acknowledgement of the one before it, where their hops differ."""
_LOOK_SECONDS = 0.002
"""To the first look; each next one takes twice as long, as a guest that acknowledges nothing must not cost much."""

_INT = struct.Struct("i")
_IPV4 = (sockets.IPPROTO_IP, sockets.IP_TTL)
_IPV6 = (sockets.IPPROTO_IPV6, sockets.IPV6_UNICAST_HOPS)


class SocketTtl:
    """Of one connection over TCP; on a unix socket nothing has an effect."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._socket: Any = transport.get_extra_info("socket")
        self._normal: dict[tuple[int, int], int] = {}

    def lower(self, hops: int) -> None:
        """What is written from now on goes `hops` hops at most."""
        for option in self._options():
            self._normal.setdefault(option, self._socket.getsockopt(*option))
            self._socket.setsockopt(*option, hops)

    def restore(self) -> None:
        for option, hops in self._normal.items():
            self._socket.setsockopt(*option, hops)
        self._normal.clear()

    @property
    def settled(self) -> bool:
        """Everything that was written has been acknowledged."""
        if self._transport.get_write_buffer_size():
            return False
        unacknowledged = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
        return bool(_INT.unpack(unacknowledged)[0] == 0)

    async def settle(self) -> bool:
        """Wait until it is so; False when it was not within SETTLE_SECONDS, or the connection is gone."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + SETTLE_SECONDS, _LOOK_SECONDS
        while not self._transport.is_closing():
            if self.settled:
                return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause *= 2
        return False

    def _options(self) -> tuple[tuple[int, int], ...]:
        if self._socket.family == sockets.AF_INET:
            return (_IPV4,)
        # A socket of both families sends to an IPv4 guest with the IPv4 value.
        return (_IPV6, _IPV4) if self._socket.family == sockets.AF_INET6 else ()
