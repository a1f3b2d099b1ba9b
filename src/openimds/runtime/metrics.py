"""`/metrics` and `/healthcheck` on a port of their own: of a threaded program, or of several workers' parent."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import prometheus_client

from openimds.config import Listen
from openimds.http.server.server import GuestServer, Listener
from openimds.runtime.lifecycle import CannotStartError
from openimds.runtime.status_pages import StatusPages


class _Handler(BaseHTTPRequestHandler):
    """Two paths; whoever asks for another hears so."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, prometheus_client.CONTENT_TYPE_LATEST, prometheus_client.generate_latest())
        elif path == "/healthcheck":
            self._answer(200, "text/plain", b"OK\n")
        else:
            self._answer(404, "text/plain", b"There are /metrics and /healthcheck here.\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Health checks are no news."""


@contextmanager
def served(listen: Listen | None) -> Iterator[None]:
    """While the block runs. None: not at all. Raises CannotStartError when the port is taken."""
    if listen is None:
        yield
        return
    try:
        server = ThreadingHTTPServer((listen.host, listen.port), _Handler)
    except OSError as error:
        raise CannotStartError(
            f"cannot listen on {listen.host}:{listen.port} for metrics: {error.strerror}; set [metrics] port"
        ) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@asynccontextmanager
async def served_by_loop(
    registry: prometheus_client.CollectorRegistry, listening: socket.socket | None, check: Callable[[], object]
) -> AsyncIterator[None]:
    """While the block runs, on a ready-made socket. `check` raises StoreUnavailable when not all is well."""
    if listening is None:
        yield
        return
    server = GuestServer(StatusPages(registry, check).handle)
    await server.start([Listener(socket=listening, tag="metrics")])
    try:
        yield
    finally:
        await server.stop(0)
