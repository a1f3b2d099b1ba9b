"""The server: ready-made listening sockets in, a handler called for every request.

server = GuestServer(handler, timeouts=Timeouts(), connections=Connections())
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
from openimds.http.server.response import http_date
from openimds.http.server.response_cache import CacheBudget, ResponseCache

BACKLOG = 4096
"""Deep from the first moment: a burst of a thousand guests waits in the queue and is not refused. The kernel cuts it
to net.core.somaxconn, which is 4096 since Linux 5.4."""

_SWEEP_SECONDS = 0.25

_Counted = TypeVar("_Counted")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A bound socket, with a name that its requests carry (`Request.listener`) and its own limits."""

    socket: sockets.socket
    tag: str = ""
    limits: Limits = field(default_factory=Limits)
    backlog: int = BACKLOG
    tls: ssl.SSLContext | None = None
    """For TCP. A peer whose handshake is not done within the time-out for a head is gone again."""
    source_mac: SourceMac | None = None
    """For TCP: who opened a connection, asked once for each; peers are then told apart by it."""
    guest_of: GuestOf | None = None
    """Where the MAC alone does not tell them apart."""


class HttpServer:
    """Serves any number of listeners on the running event loop."""

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
        self._room = CacheBudget()
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
        """Accept on these sockets from now on. The server owns and, in the end, closes them."""
        self.loop = asyncio.get_running_loop()
        for listener in listeners:
            await self.open(listener)
        if self._sweeper is None:
            self._sweep()

    async def open(self, listener: Listener) -> None:
        """Accept on one more socket, as `start` does. Some thousands of them are cheap: 1 KB and 20 µs each."""
        repeats = ResponseCache(self._room)

        def connect() -> Connection:
            return Connection(
                self,
                listener.limits,
                listener.tag,
                repeats,
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
        """Accept no more on this socket, and close it; the connections that came by it go on. Idempotent.

        Where somebody else holds the same socket, what waits in its queue stays there for him.
        """
        server = self._servers.pop(listening, None)
        if server is not None:
            server.close()
            await asyncio.sleep(0)  # the loop closes the socket in its next turn

    async def stop(self, drain_seconds: float, *, idle_seconds: float = 0.0) -> None:
        """Accept nothing new, let requests under way finish, and after `drain_seconds` close what is left.

        A connection on which nothing is asked has `idle_seconds` in which one more request is answered, with
        `Connection: close`: it may be under way already, and its sender could not know whether it was carried out.
        """
        self.draining = True
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        await asyncio.sleep(0)  # the loop brings in what it has accepted
        await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.drain(idle_seconds)
        if not await self._wait_empty(drain_seconds):
            _log.warning("connections were closed before they were done", count=len(self._connections))
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._refusals.flush(everything=True)
        await asyncio.sleep(0)

    def admit(self, connection: Connection) -> Response | None:
        """Count a new connection in; where there are too many, or its guest must wait, what it is told instead."""
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
        """Something of it could not be read."""
        self._refusals.note(connection.listener, status)
        peer = connection.peer
        if peer.is_guest and self._bans is not None:
            self._bans.count(connection.listener, peer.mac, peer.address)

    def _count_in(self, connection: Connection) -> bool:
        """False when there are too many."""
        caps, listener, peer = self._caps, connection.listener, connection.peer
        guest = (listener, peer.guest)  # an address or a MAC is one guest's on its own network alone
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
        """Look at every connection's deadline. One pass over all of them costs less than a timer for each request."""
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
