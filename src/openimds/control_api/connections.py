"""Limits of the control API's connections: uvicorn's protocol with time limits, size limits and caps.

uvicorn closes a connection that is idle after a response. It has no limit for a client that sends nothing, sends a head or
a body without end, or opens thousands of connections.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from collections import Counter
from typing import Any, ClassVar

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 8_000
"""Fewer if RLIMIT_NOFILE is low: connections take at most three quarters of the file descriptors."""
MAX_CONNECTIONS_PER_ADDRESS = 1_000
"""Limit for one IPv4 address or IPv6 /64. The agents of one host use about ten."""
HEAD_SECONDS = 20.0
"""Time from the first byte of a request, or from the start of the connection, to the end of the head."""
MAX_HEAD_BYTES = 64 * 1024
BODY_SECONDS = 30.0
MIN_BODY_BYTES_PER_SECOND = 1024
"""A body may take BODY_SECONDS, and one more second for each of these many bytes."""
DISCARD_SECONDS = 30.0
"""Time in which the rest of a body is discarded after the response. Many clients read a response only after they sent the
body, and an immediate end of the connection can delete the response before they read it."""
LOG_INTERVAL_SECONDS = 10.0


class ConnectionLimiter:
    """Counts the connections of one server by address. Belongs to one event loop."""

    def __init__(self) -> None:
        self._limit = min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)
        self._count = 0
        self._open: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._reporting = False

    def admit(self, address: str) -> bool:
        """Counts one connection. Returns False, and counts nothing, if a cap is reached."""
        if self._count >= self._limit or self._open[address] >= MAX_CONNECTIONS_PER_ADDRESS:
            self._refuse(address)
            return False
        self._count += 1
        self._open[address] += 1
        return True

    def release(self, address: str) -> None:
        """Takes back the count of one connection."""
        self._count -= 1
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]

    def _refuse(self, address: str) -> None:
        self._refused[address] += 1
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_later(LOG_INTERVAL_SECONDS, self._report)

    def _report(self) -> None:
        address, most = self._refused.most_common(1)[0]
        log.warning(
            "connections refused: limit reached",
            count=self._refused.total(),
            addresses=len(self._refused),
            most_from=address,
            most=most,
            open=self._count,
        )
        self._refused.clear()
        self._reporting = False


class LimitedProtocol(HttpToolsProtocol):
    """One connection. A subclass sets `limiter`."""

    limiter: ClassVar[ConnectionLimiter]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._address = ""
        """The client's IPv4 address or IPv6 /64. Empty if the connection was refused or has ended."""
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._body_bytes = 0
        self._body_started_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = address_prefix(self.client[0] if self.client else "")
        if not self.limiter.admit(address):
            transport.abort()
            return
        self._address = address
        self._restart_timer(HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._address:
            self.limiter.release(self._address)
            self._address = ""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._timer is None:
                self._restart_timer(HEAD_SECONDS, self._give_up)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._give_up()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._body_bytes = 0
        self._body_started_at = self.loop.time()
        self._restart_timer(BODY_SECONDS, self._check_body)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:  # uvicorn drops the rest of this body
            self._restart_timer(DISCARD_SECONDS, self._give_up)

    def _check_body(self) -> None:
        now = self.loop.time()
        if self.flow.read_paused:  # the server is behind, and not the client
            self._body_bytes = 0
            self._body_started_at = now
        left = self._body_started_at + BODY_SECONDS + self._body_bytes / MIN_BODY_BYTES_PER_SECOND - now
        if left > 0:
            self._restart_timer(min(BODY_SECONDS, left), self._check_body)
        else:
            self._give_up()

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()

    def _restart_timer(self, seconds: float, action: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def limited_protocol() -> type[LimitedProtocol]:
    """The protocol class of one server, for uvicorn.Config(http=…)."""
    return type("LimitedProtocol", (LimitedProtocol,), {"limiter": ConnectionLimiter()})


def address_prefix(address: str) -> str:
    """The key that connections are counted by: the IPv4 address, or the /64 prefix of an IPv6 address, which one host may use
    completely.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 32 if parsed.version == 4 else 64), strict=False))
