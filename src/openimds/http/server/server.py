"""The HTTP/1.1 server: accepts on bound sockets, and calls a handler for each request.

server = HttpServer(handler, timeouts=Timeouts(), connections=ConnectionLimits())
await server.start([Listener(socket=tcp_listener("0.0.0.0", 8775), tag="tcp")])
await server.open(Listener(socket=further, tag="network:…"))
await server.close(further)
…
await server.stop(drain_seconds=10)
"""

from __future__ import annotations

import asyncio
import socket as sockets
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from openimds.http.messages import Handler, Response, text_response
from openimds.http.server.connection import Connection
from openimds.http.server.limits import ConnectionLimits, Limits, Timeouts
from openimds.http.server.peer import GuestOf, SourceMac
from openimds.http.server.rejections import ClientBans, RejectionLog
from openimds.http.server.response import CacheBudget, ResponseCache, http_date

BACKLOG = 4096
"""A burst of a thousand clients waits in the queue instead of being refused. The kernel limits the queue to
net.core.somaxconn, which is 4096 since Linux 5.4."""

_SWEEP_SECONDS = 0.25

_Counted = TypeVar("_Counted")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A bound socket with its tag (`Request.listener`) and limits."""

    socket: sockets.socket
    tag: str = ""
    limits: Limits = field(default_factory=Limits)
    backlog: int = BACKLOG
    tls: ssl.SSLContext | None = None
    """For TCP. A handshake has the timeout of a head."""
    source_mac: SourceMac | None = None
    """For TCP. Returns the MAC that opened a connection. Clients are then counted by MAC."""
    guest_of: GuestOf | None = None
    """Returns the key that clients are counted by, if it is not the MAC."""


class HttpServer:
    """Serves any number of listeners. Belongs to the event loop."""

    def __init__(
        self,
        handler: Handler,
        *,
        timeouts: Timeouts | None = None,
        connections: ConnectionLimits | None = None,
        bans: ClientBans | None = None,
    ) -> None:
        """`bans`: the bans of clients on listeners with `source_mac`. None if no client is banned."""
        self.handler = handler
        self.timeouts = timeouts or Timeouts()
        self.draining = False
        self.date, self.idle_deadline = http_date(time.time()), 0.0
        self._caps = connections or ConnectionLimits()
        self._connections: set[Connection] = set()
        self._budget = CacheBudget()
        self._bans = bans
        self._refusals = RejectionLog(time.monotonic)
        self._of_guest: Counter[tuple[str, str]] = Counter()
        self._of_listener: Counter[str] = Counter()
        self._servers: dict[sockets.socket, asyncio.Server] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None
        self.loop: asyncio.AbstractEventLoop

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    async def start(self, listeners: Sequence[Listener]) -> None:
        """Starts to accept connections. The server owns the sockets and closes them."""
        self.loop = asyncio.get_running_loop()
        for listener in listeners:
            await self.open(listener)
        if self._sweeper is None:
            self._sweep()

    async def open(self, listener: Listener) -> None:
        """Accepts connections on one more socket. A socket takes 1 KB and 20 µs."""
        cache = ResponseCache(self._budget)

        def connect() -> Connection:
            return Connection(
                self,
                listener.limits,
                listener.tag,
                cache,
                source_mac=listener.source_mac,
                guest_of=listener.guest_of,
            )

        listener.socket.setblocking(False)
        if listener.socket.family == sockets.AF_UNIX:
            server = await self.loop.create_unix_server(connect, sock=listener.socket, backlog=listener.backlog)
        else:
            server = await self.loop.create_server(
                connect,
                sock=listener.socket,
                backlog=listener.backlog,
                ssl=listener.tls,
                ssl_handshake_timeout=self.timeouts.head if listener.tls else None,
            )
        self._servers[listener.socket] = server

    async def close(self, listening: sockets.socket) -> None:
        """Closes a listening socket. Its connections stay open. Idempotent.

        If another process holds the same socket, the queue of new connections stays for that process.
        """
        server = self._servers.pop(listening, None)
        if server is not None:
            server.close()
            await asyncio.sleep(0)  # the event loop closes the socket in its next iteration

    async def stop(self, drain_seconds: float, *, idle_seconds: float = 0.0) -> None:
        """Stops accepting, waits for running requests, and closes the other connections after `drain_seconds`.

        An idle connection may send one more request within `idle_seconds`, which is answered with `Connection: close`.
        The request may be in transit already, and its client could not know whether it was carried out.
        """
        self.draining = True
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        await asyncio.sleep(0)  # the event loop hands over accepted connections
        await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.drain(idle_seconds)
        if not await self._wait_empty(drain_seconds):
            _log.warning("connections closed at the end of the drain time", count=len(self._connections))
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._refusals.flush(everything=True)
        await asyncio.sleep(0)

    def admit(self, connection: Connection) -> Response | None:
        """Counts a new connection. Returns 503 for too many connections, 429 for a banned client, else None."""
        peer = connection.peer
        bans = self._bans if peer.is_guest else None
        wait = bans.wait_seconds(connection.listener, peer.mac, peer.address) if bans is not None else 0
        if wait:
            self._refusals.note(connection.listener, 429)
            return text_response(429, "Too many requests. Try again later.", (b"Retry-After", b"%d" % wait))
        if not self._count_in(connection):
            self._refusals.note(connection.listener, 503)
            return text_response(503, "Too many connections.", (b"Retry-After", b"1"))
        return None

    def refused(self, connection: Connection, status: int) -> None:
        """Counts a rejected request."""
        self._refusals.note(connection.listener, status)
        peer = connection.peer
        if peer.is_guest and self._bans is not None:
            self._bans.count(connection.listener, peer.mac, peer.address)

    def _count_in(self, connection: Connection) -> bool:
        """Returns False if there are too many connections."""
        caps, listener, peer = self._caps, connection.listener, connection.peer
        guest = (listener, peer.guest)  # addresses and MACs are unique per network only
        if len(self._connections) >= caps.total:
            return False
        if peer.guest and self._of_guest[guest] >= caps.per_peer:
            return False
        if peer.is_guest and self._of_listener[listener] >= caps.per_network:
            return False
        self._connections.add(connection)
        self._of_guest[guest] += 1
        self._of_listener[listener] += 1
        return True

    def forget(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        _count_out(self._of_guest, (connection.listener, connection.peer.guest))
        _count_out(self._of_listener, connection.listener)
        if self._empty is not None and not self._connections:
            self._empty.set()

    async def _wait_empty(self, seconds: float) -> bool:
        if not self._connections:
            return True
        self._empty = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _sweep(self) -> None:
        """Checks the deadlines of all connections. This costs less than a timer for each request."""
        now = self.loop.time()
        self.date, self.idle_deadline = http_date(time.time()), now + self.timeouts.idle + _SWEEP_SECONDS
        for connection in [one for one in self._connections if one.deadline < now]:
            connection.expire()
        self._refusals.flush()
        self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)


def _count_out(counter: Counter[_Counted], counted: _Counted) -> None:
    counter[counted] -= 1
    if not counter[counted]:
        del counter[counted]
