"""A proxy in front of Neutron that counts the calls of the agent and can delay or hold them."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.waiting import HANG_SECONDS

NOVAS_FILTER = "fields="
"""Nova asks for single fields of ports and security groups. The agent does not."""


class CountingProxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 200

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.calls: list[str] = []
        """The paths of the agent's calls."""
        self.delay_seconds = 0.0
        self.open = threading.Event()
        """Clear while Neutron does not respond to the agent."""
        self.open.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: CountingProxy

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if NOVAS_FILTER not in self.path:
            self.server.calls.append(f"{self.command} {self.path}")
            time.sleep(self.server.delay_seconds)
            self.server.open.wait(HANG_SECONDS)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=HANG_SECONDS)
        try:
            passed = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            connection.request(self.command, self.path, body or None, passed)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        self.send_response(response.status)
        self.send_header("Content-Type", response.getheader("Content-Type") or "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815 - the library's names

    def log_message(self, *_arguments: Any) -> None:
        """Suppresses the access log."""


@contextmanager
def counting_proxy(port: int) -> Iterator[CountingProxy]:
    proxy = CountingProxy(port)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.open.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()
