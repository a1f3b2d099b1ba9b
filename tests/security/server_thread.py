"""An HTTP server on an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Self

import uvloop
from tests.waiting import HANG_SECONDS, until

from openimds.http.server.limits import ConnectionLimits, Timeouts
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import tcp_listener
from openimds.programs.metadata_api.worker import LIMITS

SHORT = Timeouts(head=1.0, body=1.0, idle=30.0, answer=20.0, linger=0.5)
"""Timeouts for fast tests of slow clients."""


class ServerThread:
    """A context manager that runs a server: `with ServerThread(make_service, ConnectionLimits()) as server`."""

    def __init__(self, make_service: Callable[[], Any], connections: ConnectionLimits, tls: Any = None) -> None:
        self._make_service = make_service
        self._connections = connections
        self._tls = tls
        self.loop = uvloop.new_event_loop()
        self.server: HttpServer
        self.port = 0
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(HANG_SECONDS)
        return self

    def __exit__(self, *_error: object) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(0.5), self.loop).result(HANG_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(HANG_SECONDS)
        self.loop.close()

    def wait_for_connections(self, connections: int) -> None:
        until(lambda: self.server.connection_count == connections)

    def wait_until_draining(self) -> None:
        until(lambda: self.server.draining)

    async def _start(self) -> None:
        listener = tcp_listener("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.server = HttpServer(self._make_service().handle, timeouts=SHORT, connections=self._connections)
        await self.server.start([Listener(socket=listener, tag="tcp", limits=LIMITS, tls=self._tls)])
