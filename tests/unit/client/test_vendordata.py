"""Requests to dynamic vendor data targets, over real HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from keystoneauth1.session import Session
from keystoneauth1.token_endpoint import Token

from openimds.client.vendordata import MAX_RESPONSE_BYTES, VendorTimeouts, vendor_post
from openimds.resources.errors import PeerFailed
from openimds.resources.instance import VendordataResponse

FIELDS = {"instance-id": "i", "user-data": None}


class Target(BaseHTTPRequestHandler):
    """Responds by path, and records the requests."""

    requests: list[tuple[dict[str, str], Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((dict(self.headers.items()), json.loads(body)))
        status, response = {
            "/ok": (200, b'{"a": 1}'),
            "/empty": (200, b""),
            "/text": (200, b"hello"),
            "/error": (500, b"{}"),
            "/kept": (200, b"{}"),
            "/large": (200, b'"' + b"x" * MAX_RESPONSE_BYTES + b'"'),
        }[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(response)))
        if self.path == "/kept":
            self.send_header("Cache-Control", "private, max-age=60")
            self.send_header("Age", "10")
        self.end_headers()
        self.wfile.write(response)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Logs nothing."""


@pytest.fixture
def target() -> Iterator[str]:
    Target.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Target) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def post(url: str, session: Session | None = None, read_seconds: float = 5.0) -> VendordataResponse:
    timeouts = VendorTimeouts(connect_seconds=1.0, read_seconds=read_seconds)
    return vendor_post(session or Session(), timeouts, None)(url, FIELDS)


def test_response_is_decoded(target: str) -> None:
    assert post(f"{target}/ok") == VendordataResponse({"a": 1}, size_bytes=8, fresh_seconds=0)
    headers, fields = Target.requests[0]
    assert fields == FIELDS
    assert headers["Content-Type"] == "application/json"
    assert "X-Auth-Token" not in headers


def test_session_with_credentials_sends_a_token(target: str) -> None:
    post(f"{target}/ok", Session(auth=Token(target, "tok")))
    assert Target.requests[0][0]["X-Auth-Token"] == "tok"


def test_empty_response_is_none(target: str) -> None:
    assert post(f"{target}/empty") == VendordataResponse(None)


@pytest.mark.parametrize("path", ["/text", "/error", "/large"])
def test_unusable_response_is_rejected(target: str, path: str) -> None:
    with pytest.raises(PeerFailed):
        post(target + path)


def test_fresh_response_has_its_remaining_seconds(target: str) -> None:
    assert post(f"{target}/kept").fresh_seconds == 50


def test_refused_connection_is_a_failure() -> None:
    with pytest.raises(PeerFailed):
        post("http://127.0.0.1:1/")


def test_silent_target_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(PeerFailed):
            post(f"http://127.0.0.1:{silent.getsockname()[1]}/", read_seconds=0.05)


def test_slow_target_exceeds_the_total_timeout() -> None:
    """Each byte arrives within the read timeout, but the response never ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopped = threading.Event()
        threading.Thread(target=_drip, args=(server, stopped), daemon=True).start()
        try:
            with pytest.raises(PeerFailed):  # the target still sends
                post(f"http://127.0.0.1:{server.getsockname()[1]}/", read_seconds=0.3)
        finally:
            stopped.set()


def _drip(server: socket.socket, stopped: threading.Event) -> None:
    with server.accept()[0] as connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not stopped.wait(0.05):
            with contextlib.suppress(OSError):
                connection.sendall(b"1\r\n1\r\n")
