"""The IP TTL of one connection: a response that must not leave the instance is sent with a low TTL.

The kernel applies a socket's TTL to all its packets, including retransmissions. So the TTL is lowered while all earlier
packets are acknowledged, and restored when the response is acknowledged. A receiver that is too many hops away does not
get the response by a retransmission either.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket as sockets
import struct
import termios
from typing import Any

SETTLE_SECONDS = 1.0
"""The time that a response with another TTL waits for the acknowledgement of earlier packets."""
_CHECK_SECONDS = 0.002
"""The interval of the first check. The interval doubles after each check, because a client may never acknowledge."""

_INT = struct.Struct("i")
_IPV4 = (sockets.IPPROTO_IP, sockets.IP_TTL)
_IPV6 = (sockets.IPPROTO_IPV6, sockets.IPV6_UNICAST_HOPS)


class SocketTtl:
    """The TTL of one TCP connection. Without effect on a unix socket."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._socket: Any = transport.get_extra_info("socket")
        self._normal: dict[tuple[int, int], int] = {}

    def lower(self, hops: int) -> None:
        """Limits later packets to `hops` hops."""
        for option in self._options():
            self._normal.setdefault(option, self._socket.getsockopt(*option))
            self._socket.setsockopt(*option, hops)

    def restore(self) -> None:
        for option, hops in self._normal.items():
            self._socket.setsockopt(*option, hops)
        self._normal.clear()

    @property
    def settled(self) -> bool:
        """Whether all packets are acknowledged."""
        if self._transport.get_write_buffer_size():
            return False
        unacknowledged = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
        return bool(_INT.unpack(unacknowledged)[0] == 0)

    async def settle(self) -> bool:
        """Waits for `settled`. Returns False after SETTLE_SECONDS, or if the connection ended."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + SETTLE_SECONDS, _CHECK_SECONDS
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
        # A dual-stack socket uses the IPv4 value for IPv4 peers.
        return (_IPV6, _IPV4) if self._socket.family == sockets.AF_INET6 else ()
