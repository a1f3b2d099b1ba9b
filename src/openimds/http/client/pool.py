"""An HTTP client with a pool of kept-alive connections over TCP, TLS or a unix socket.

    pool = Pool(ServerAddress(host="controller", port=8775))
    response = await pool.request(ClientRequest(method="GET", target=b"/openstack", headers=(…)), timeout_seconds=60)

Rules of this file:

1. A response is complete. A body that ends before its length raises UpstreamError.
2. The server may have closed a kept-alive connection in the meantime. A GET or HEAD is then sent once more, on a new
   connection, if no byte of a response was received. Other requests always use a new connection.
3. Bodies and their Content-Encoding are unchanged.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openimds.http.client.connection import ClientConnection, ConnectionBrokenError
from openimds.http.messages import Response

_REPEATABLE = frozenset({"GET", "HEAD"})
_WITH_LENGTH = frozenset({"POST", "PUT", "PATCH"})
_SWEEP_SECONDS = 0.25


class UpstreamError(Exception):
    """No complete response was received. The message has the server and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """The server: `host` and `port`, or the unix socket `path`."""

    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = None
    path: Path | None = None

    @property
    def authority(self) -> str:
        """The Host header: `controller:8775`, `[fd00::1]:8775`, `localhost` for a unix socket."""
        if self.path is not None:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"{'https' if self.tls else 'http'}://{self.authority}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    max_connections: int = 64
    """Further requests wait for a free connection."""
    connect_seconds: float = 5.0
    idle_seconds: float = 15.0
    """The maximum idle time of a connection. Servers close idle connections too."""
    max_response_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRequest:
    """One request. The pool adds Host and Content-Length."""

    method: str
    target: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""


class Pool:
    """Belongs to one event loop."""

    def __init__(self, upstream: ServerAddress, settings: PoolSettings | None = None) -> None:
        self.upstream = upstream
        self._settings = settings or PoolSettings()
        self._slots = asyncio.Semaphore(self._settings.max_connections)
        self._idle: deque[ClientConnection] = deque()
        self._all: set[ClientConnection] = set()
        self._closed = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._host = b" HTTP/1.1\r\nHost: %b\r\n" % upstream.authority.encode()

    @property
    def connection_count(self) -> int:
        return len(self._all)

    async def request(self, request: ClientRequest, timeout_seconds: float) -> Response:
        """Sends a request and returns the response. Raises UpstreamError, also on timeout, which is checked every 0.25 s."""
        data = _render(request, self._host)
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        try:
            if self._slots.locked():
                async with asyncio.timeout_at(deadline):
                    await self._slots.acquire()
            else:
                await self._slots.acquire()
            try:
                kept = self._take_idle() if request.method in _REPEATABLE else None
                if kept is not None:
                    try:
                        return await self._send(kept, request.method, data, deadline)
                    except ConnectionBrokenError as error:
                        if error.answer_began:
                            raise self._failure(error) from None
                return await self._send_on_new(request.method, data, deadline)
            finally:
                self._slots.release()
        except TimeoutError:
            raise UpstreamError(f"{self.upstream} did not answer within {timeout_seconds:g} s") from None

    async def close(self) -> None:
        """Closes all connections. Running requests fail."""
        self._closed = True
        for connection in list(self._all):
            connection.close()
        self._idle.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.sleep(0)

    async def _send_on_new(self, method: str, data: bytes, deadline: float) -> Response:
        async with asyncio.timeout_at(deadline):
            fresh = await self._connect()
        try:
            return await self._send(fresh, method, data, deadline)
        except ConnectionBrokenError as error:
            raise self._failure(error) from None

    async def _send(self, connection: ClientConnection, method: str, data: bytes, deadline: float) -> Response:
        waiter: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        connection.deadline = deadline
        if self._sweeper is None:
            self._sweep()
        connection.send(method, data, waiter)
        try:
            response = await waiter
        except BaseException:  # cancelled or timed out: the response may still arrive on this connection
            connection.close()
            raise
        self._keep(connection)
        return response

    def _sweep(self) -> None:
        """Checks the deadlines of all connections. This costs less than a timer for each request."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._all):
            connection.expire(now)
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep) if self._all else None

    async def _connect(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        upstream = self.upstream

        def make() -> ClientConnection:
            return ClientConnection(self._settings.max_response_bytes, self._forget)

        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                if upstream.path is not None:
                    _, connection = await loop.create_unix_connection(make, str(upstream.path))
                else:
                    _, connection = await loop.create_connection(make, upstream.host, upstream.port, ssl=upstream.tls)
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "no answer"
            raise UpstreamError(f"{upstream} cannot be reached: {reason}") from None
        self._all.add(connection)
        return connection

    def _take_idle(self) -> ClientConnection | None:
        oldest_good = asyncio.get_running_loop().time() - self._settings.idle_seconds
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_since >= oldest_good:
                return connection
            connection.close()
        return None

    def _keep(self, connection: ClientConnection) -> None:
        if not connection.reusable or self._closed:
            connection.close()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def _forget(self, connection: ClientConnection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _failure(self, error: ConnectionBrokenError) -> UpstreamError:
        return UpstreamError(f"{self.upstream} broke off: {error}")


def _render(request: ClientRequest, version_and_host: bytes) -> bytes:
    parts = [request.method.encode(), b" ", request.target or b"/", version_and_host]
    for name, value in request.headers:
        parts += (name, b": ", value, b"\r\n")
    if request.body or request.method in _WITH_LENGTH:
        parts.append(b"Content-Length: %d\r\n" % len(request.body))
    head = b"".join(parts)
    lines = 2 + len(request.headers) + (1 if request.body or request.method in _WITH_LENGTH else 0)
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise ValueError("a request's target or header has a line break in it")
    return head + b"\r\n" + request.body
