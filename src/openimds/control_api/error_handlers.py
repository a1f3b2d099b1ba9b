"""Converts exceptions to error responses.

The path decides the JSON of the error: Keystone's for `/v3`, Neutron's for `/network`, Nova's for `/compute`, Glance's for
`/image`. All other paths have Keystone's form, which every client can display.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from openimds.control_api.input_checks import InvalidInput
from openimds.resources import errors

log = structlog.get_logger(__name__)

COMPUTE = "/compute"
NETWORK = "/network"
IMAGE = "/image"

NOVA_FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}
"""Status → Nova's name of the error object. Other statuses are `computeFault`."""

NEUTRON_TYPES = {
    400: "BadRequest",
    401: "HTTPUnauthorized",
    403: "PolicyNotAuthorized",
    404: "HTTPNotFound",
    405: "HTTPMethodNotAllowed",
    409: "Conflict",
    410: "RevisionGone",
    413: "RequestTooLarge",
    501: "HTTPNotImplemented",
    503: "ServiceUnavailable",
}

STATUS_BY_ERROR: tuple[tuple[type[errors.OpenimdsError], int], ...] = (
    (errors.BadRequest, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.RevisionGone, 410),
    (errors.PreconditionFailed, 412),
    (errors.PayloadTooLarge, 413),
    (errors.NotSupported, 501),
    (errors.StoreUnavailable, 503),
)

HEADERS_BY_STATUS: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": 'Keystone uri="/v3"'},
    503: {"Retry-After": "1"},
}

LOGGED_STATUSES = frozenset({500, 503})
"""Statuses of errors on the server's side."""

MAX_MESSAGE_CHARS = 2000

INTERNAL_ERROR_MESSAGE = (
    "An unexpected error prevented the server from answering; try again. The log has it under this request's id."
)


UNAVAILABLE = "The service cannot read or write its data at present. Try again later. The log has the reason under this request's id."


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An error before it is rendered as a service's JSON."""

    status: int
    message: str
    kind: str | None = None
    headers: Mapping[str, str] | None = None


class NotAcceptable(errors.OpenimdsError):
    """The microversion is not supported (406)."""


def install(app: FastAPI) -> None:
    """Registers the exception handlers. The middleware handles unexpected exceptions."""

    async def domain(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.OpenimdsError)
        problem = error_response(error, request.scope["path"])
        if problem.status in LOGGED_STATUSES:
            log.warning("control API request failed", request_id=request.state.request_id, reason=error.message)
        return json_response(request.scope["path"], problem)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return json_response(request.scope["path"], ErrorResponse(400, validation_message(error)))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return json_response(request.scope["path"], _routing_problem(request, error))

    app.add_exception_handler(errors.OpenimdsError, domain)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def error_response(error: errors.OpenimdsError, path: str = "") -> ErrorResponse:
    """The status, message and headers of a domain error."""
    if isinstance(error, NotAcceptable):
        return ErrorResponse(406, error.message, error.kind)
    if isinstance(error, errors.TooManyRequests):
        return ErrorResponse(429, error.message, error.kind, {"Retry-After": str(error.retry_after_seconds)})
    if isinstance(error, errors.QuotaExceeded):
        return ErrorResponse(409 if is_under(path, NETWORK) else 403, error.message, error.kind or "OverQuota")
    if isinstance(error, errors.StoreUnavailable) and not isinstance(error, errors.NotOffered):
        return ErrorResponse(
            503, UNAVAILABLE, error.kind, HEADERS_BY_STATUS[503]
        )  # the error's own message contains paths and URLs
    for kind, status in STATUS_BY_ERROR:
        if isinstance(error, kind):
            return ErrorResponse(status, error.message, error.kind, HEADERS_BY_STATUS.get(status))
    return ErrorResponse(500, INTERNAL_ERROR_MESSAGE)


def json_response(path: str, problem: ErrorResponse) -> JSONResponse:
    """The error as the JSON of the service that `path` belongs to."""
    if len(problem.message) > MAX_MESSAGE_CHARS:  # messages quote invalid values
        problem = replace(problem, message=f"{problem.message[:MAX_MESSAGE_CHARS]}…")
    return JSONResponse(_form(path, problem), problem.status, dict(problem.headers or {}))


def validation_message(error: RequestValidationError) -> str:
    """One sentence that names the first invalid field. It omits the value, which may be a secret.

    `Invalid input for field server.name: Field required`
    """
    first: Mapping[str, Any] = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"The request's body is not JSON: {first.get('ctx', {}).get('error', 'it cannot be parsed')}."
    where = [str(part) for part in first["loc"]]
    field = ".".join(where[1:]) or where[0]
    return f"Invalid input for field {field}: {str(first['msg']).removeprefix('Value error, ')}"


def _routing_problem(request: Request, error: HTTPException) -> ErrorResponse:
    path = request.scope["path"]
    if error.status_code == HTTPStatus.NOT_FOUND:
        return ErrorResponse(404, f"{path} could not be found: this call is not part of what openimds serves.")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return ErrorResponse(405, f"{request.method} is not something that {path} takes.", headers=error.headers)
    if error.status_code == HTTPStatus.BAD_REQUEST and not isinstance(error, InvalidInput):
        return ErrorResponse(400, "The request's body could not be read as JSON.")
    return ErrorResponse(error.status_code, str(error.detail), headers=error.headers)


def _form(path: str, problem: ErrorResponse) -> dict[str, Any]:
    title = HTTPStatus(problem.status).phrase
    if is_under(path, NETWORK):
        kind = problem.kind or NEUTRON_TYPES.get(problem.status, title.replace(" ", ""))
        return {"NeutronError": {"type": kind, "message": problem.message, "detail": ""}}
    if is_under(path, COMPUTE):
        fault = NOVA_FAULTS.get(problem.status, "computeFault")
        return {fault: {"code": problem.status, "message": problem.message}}
    if is_under(path, IMAGE):
        return {"message": problem.message, "code": f"{problem.status} {title}", "title": title}
    return {"error": {"code": problem.status, "title": title, "message": problem.message}}


def is_under(path: str, root: str) -> bool:
    """Returns True if `path` is `root` or below it."""
    return path == root or path.startswith(root + "/")
