"""The outermost layer of the application: request id, trailing slash, body limit, access log, metrics, and the response to
unexpected exceptions.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import structlog
from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openimds.control_api.error_handlers import INTERNAL_ERROR_MESSAGE, ErrorResponse, json_response
from openimds.control_api.input_checks import InvalidInput, check_target, checked_body

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(rb"req-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
QUIET_PATHS = frozenset({"/metrics", "/healthcheck", "/openimds/v1/changes"})
"""Paths that programs poll. Their requests are logged at debug level."""


MAX_BODY_BYTES = 2 * 1024 * 1024
"""Limit of JSON bodies. The largest valid request, a server with all user data and files, is below 200 KiB."""
MAX_LOGIN_BYTES = 64 * 1024
"""Limit of the body of LOGIN, the only body that the server reads without a token."""
LOGIN = "/v3/auth/tokens"
IMAGE_DATA = re.compile(r"/image/v2/images/[^/]+/file")
"""Paths whose body is streamed to disk without this limit."""
CONSOLE = re.compile(r"/openimds/v1/servers/[^/]+/console")
"""Paths whose body is console output and not JSON."""

RESPONSE_HEADERS = "answer_headers"


def add_response_header(request: Request, name: str, value: str) -> None:
    """Adds a header to the response of this request, also if the response is an error."""
    known: list[tuple[bytes, bytes]] = request.scope["state"].setdefault(RESPONSE_HEADERS, [])
    known.append((name.lower().encode("latin-1"), value.encode("latin-1")))


class RequestMetrics:
    """The metrics of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Two applications in one process need two registries."""
        self.registry = registry
        self.requests = Counter(
            "openimds_control_requests_total", "Responses", ["service", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "openimds_control_request_seconds",
            "Time from a request to its response",
            ["service"],
            registry=self.registry,
        )


class RequestMiddleware:
    """The outermost ASGI middleware. Every response has a request id, and no error shows internal details."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _RequestCycle(self._app, self._metrics, scope, send).run(receive)


class _RequestCycle:
    """One request and its response."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics, scope: Scope, send: Send) -> None:
        self._app = app
        self._metrics = metrics
        self._send = send
        self._scope = _without_trailing_slash(scope)
        self._request_id = f"req-{uuid.uuid4()}"
        self._status = 0
        self._scope.setdefault("state", {})["request_id"] = self._request_id

    async def run(self, receive: Receive) -> None:
        started = time.perf_counter()
        try:
            check_target(self._scope)
            await self._app(self._scope, self._checked(receive), self._send_with_id)
        except InvalidInput as error:
            await self._send_error(ErrorResponse(400, error.detail), receive)
        except ClientDisconnect:
            await self._send_error(ErrorResponse(400, "The client went away before the whole body was read."), receive)
        except Exception:
            log.exception(
                "control API request raised an exception", request_id=self._request_id, path=self._scope["path"]
            )
            if not self._status:
                await self._send_error(ErrorResponse(500, INTERNAL_ERROR_MESSAGE), receive)
        self._record(time.perf_counter() - started)

    def _checked(self, receive: Receive) -> Receive:
        """Wraps `receive` with the body limit and the text check that apply to this path."""
        path = self._scope["path"]
        if IMAGE_DATA.fullmatch(path):
            return receive
        limited = _limited_receive(receive, MAX_LOGIN_BYTES if path == LOGIN else MAX_BODY_BYTES)
        return limited if CONSOLE.fullmatch(path) else checked_body(limited)

    async def _send_error(self, problem: ErrorResponse, receive: Receive) -> None:
        await json_response(self._scope["path"], problem)(self._scope, receive, self._send_with_id)

    async def _send_with_id(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = int(message["status"])
            headers = list(message.get("headers", ()))
            headers.append((b"x-openstack-request-id", self._request_id.encode()))
            if self._scope["path"].startswith("/compute"):
                headers.append((b"x-compute-request-id", self._request_id.encode()))
            headers.extend(self._scope["state"].get(RESPONSE_HEADERS, ()))
            message = {**message, "headers": headers}
        await self._send(message)

    def _record(self, seconds: float) -> None:
        path = self._scope["path"]
        service = path.split("/", 2)[1] or "root"
        service = service if service in {"v3", "network", "compute", "image", "openimds"} else "other"
        self._metrics.requests.labels(service, str(self._status)).inc()
        if path not in QUIET_PATHS:  # the waiting time of a long poll would distort the histogram
            self._metrics.seconds.labels(service).observe(seconds)
        write = log.debug if path in QUIET_PATHS else log.info
        write("request answered", **self._log_fields(seconds))

    def _log_fields(self, seconds: float) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "request_id": self._request_id,
            "method": self._scope["method"],
            "path": self._scope["path"],
            "status": self._status,
            "ms": round(seconds * 1000, 1),
        }
        for name, value in self._scope["headers"]:
            if name == b"x-openstack-request-id" and REQUEST_ID.fullmatch(value):
                facts["global_request_id"] = value.decode()
        return facts


def _limited_receive(receive: Receive, limit_bytes: int) -> Receive:
    """Wraps `receive` and raises HTTPException, which FastAPI passes on, if the body exceeds the limit."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit_bytes:
            close = {"Connection": "close"}  # without it, the server would read the rest of the body
            raise HTTPException(413, f"The request's body has over {limit_bytes} bytes.", close)
        return message

    return counted


def _without_trailing_slash(scope: Scope) -> Scope:
    """Removes a trailing slash from the path. OpenStack's services treat `/v3/` as `/v3`; a redirect would lose the body."""
    path = scope["path"]
    return {**scope, "path": path.rstrip("/") or "/"} if path.endswith("/") else dict(scope)
