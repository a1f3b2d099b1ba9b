"""`/metrics` and `/healthcheck` of a threaded program, on a port of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import prometheus_client

from openimds.config import Listen
from openimds.daemons.running import CannotStartError


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
