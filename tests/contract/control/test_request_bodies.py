"""The server reads no body of a client without a token, and no more of a body than its limit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs
from tests.contract.control.stage import Cloud, Session

from openimds.control_api.middleware import LOGIN, MAX_BODY_BYTES, MAX_LOGIN_BYTES, RequestMetrics, RequestMiddleware

CHUNK = b"x" * 60_000
WITH_A_BODY = ("post", "put", "patch")
NO_BODY_TAKEN = ("GET", "HEAD", "DELETE", "OPTIONS", "PURGE", "POST")


@dataclass
class EndlessRequest:
    """A request whose body has no end. It counts the bytes that the application takes."""

    app: Any
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    taken_bytes: int = 0
    status: int = 0

    async def _receive(self) -> dict[str, Any]:
        self.taken_bytes += len(CHUNK)
        assert self.taken_bytes < 100_000_000, "the body is read without a limit"
        return {"type": "http.request", "body": CHUNK, "more_body": True}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]

    def sent(self) -> EndlessRequest:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": self.method, "scheme": "http",
            "path": self.path, "raw_path": self.path.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked"),
                        *((name.encode(), value.encode()) for name, value in self.headers.items())],
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 40000),
        }  # fmt: skip
        asyncio.run(self.app(scope, self._receive, self._send))
        return self


def operations(cloud: Cloud) -> list[tuple[str, str]]:
    """(method, path) of every operation that can have a body and needs a token."""
    document = cloud.app.openapi()
    found = [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if method in WITH_A_BODY and (method, path) != ("post", LOGIN)
    ]
    assert len(found) > 70
    return found


@pytest.mark.parametrize("headers", [{}, {"x-auth-token": "forged"}])
def test_body_of_a_client_without_a_valid_token_is_not_read(cloud: Cloud, headers: dict[str, str]) -> None:
    """A body was read and parsed before the token was looked at: 300 MiB of it made a process of 1.6 GiB."""
    for method, path in operations(cloud):
        request = EndlessRequest(cloud.app, method, path.replace("{", "").replace("}", ""), headers).sent()
        assert (request.status, request.taken_bytes) == (401, 0), (method, path)


@pytest.mark.parametrize("method", NO_BODY_TAKEN)
@pytest.mark.parametrize("path", ["/", "/healthcheck", "/v3/users", "/no/such/path", "/image/v2/images/i/file/file"])
def test_body_of_a_request_that_takes_none_is_not_read(cloud: Cloud, method: str, path: str) -> None:
    request = EndlessRequest(cloud.app, method, path).sent()
    assert request.taken_bytes == 0
    assert request.status in {200, 300, 401, 404, 405}


def test_login_is_read_up_to_its_limit(cloud: Cloud) -> None:
    request = EndlessRequest(cloud.app, "POST", LOGIN).sent()
    assert request.status == 413
    assert request.taken_bytes <= MAX_LOGIN_BYTES + len(CHUNK)


def test_body_of_an_authenticated_client_is_read_up_to_its_limit(cloud: Cloud, admin: Session) -> None:
    """A path that ended in /file had no limit."""
    for method, path in operations(cloud):
        if path == "/image/v2/images/{image_id}/file":
            continue  # the limit of an image's data is a rule of the image store
        plain = path.replace("{", "").replace("}", "")
        request = EndlessRequest(cloud.app, method, plain, {"x-auth-token": admin.token}).sent()
        assert request.taken_bytes <= MAX_BODY_BYTES + len(CHUNK), (method, path)
        assert request.status >= 400, (method, path)
        assert request.status not in {500, 503}, (method, path)


def test_client_that_goes_away_during_its_body_is_no_server_error() -> None:
    async def reads_body(scope: Scope, receive: Receive, _send: Send) -> None:
        await Request(scope, receive).body()

    @dataclass
    class ClosedRequest(EndlessRequest):
        async def _receive(self) -> dict[str, Any]:
            return {"type": "http.disconnect"}

    app = RequestMiddleware(reads_body, RequestMetrics(CollectorRegistry()))
    with capture_logs() as logged:
        request = ClosedRequest(app, "PUT", "/openimds/v1/servers/s1/console").sent()
    assert request.status == 400
    assert [entry["event"] for entry in logged] == ["request answered"]
