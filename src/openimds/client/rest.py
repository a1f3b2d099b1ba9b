"""Sends one HTTP call through keystoneauth. Each failure becomes a ControlApiError."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import requests
from keystoneauth1.adapter import Adapter
from keystoneauth1.exceptions import ClientException, EmptyCatalog, EndpointNotFound
from keystoneauth1.session import Session

from openimds.client.errors import ControlApiError, LoginRefusedError, NoWatchError, RevisionGoneError
from openimds.client.session import LoginWaitError

_INTERFACES = ["internal", "public"]
_MAX_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RestCall:
    """An HTTP call. If `body` is a mapping, it is sent as JSON. Bytes are sent unchanged."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | bytes | None = None
    timeout_seconds: float | None = None


class RestClient:
    """Calls one service of the catalog."""

    def __init__(self, session: Session, service_type: str, *, region: str | None, version: str | None = None) -> None:
        self.service_type = service_type
        self._adapter = Adapter(
            session,
            service_type=service_type,
            interface=_INTERFACES,
            region_name=region,
            min_version=version,
            raise_exc=False,
        )

    def request_json(self, call: RestCall) -> Any:
        """Returns the decoded JSON of the response; None if it has no body. Raises ControlApiError."""
        content = self.request(call)
        if not content:
            return None
        try:
            return msgspec.json.decode(content)
        except (ValueError, msgspec.DecodeError):
            raise ControlApiError(f"{self._name(call)}: the response is not JSON") from None

    def request(self, call: RestCall) -> bytes:
        """Returns the body of the response. Raises ControlApiError."""
        response = self._send(call)
        if response.status_code >= 400:
            raise self._failure(call, response)
        return response.content

    def _send(self, call: RestCall) -> requests.Response:
        options: dict[str, Any] = {"params": {name: value for name, value in call.query.items() if value is not None}}
        if isinstance(call.body, bytes):
            options |= {"data": call.body, "headers": {"Content-Type": "text/plain"}}
        elif call.body is not None:
            options["json"] = call.body
        if call.timeout_seconds is not None:
            options["timeout"] = call.timeout_seconds
        try:
            response: requests.Response = self._adapter.request(call.path, call.method, **options)
        except (EndpointNotFound, EmptyCatalog):
            raise NoWatchError(f"the catalog has no service of the type {self.service_type}") from None
        except LoginWaitError as error:
            raise LoginRefusedError(f"{self._name(call)}: {_first_line(error)}", error.retry_seconds) from None
        except (ClientException, requests.RequestException) as error:
            status = getattr(error, "http_status", None)
            raise ControlApiError(f"{self._name(call)}: {_first_line(error)}", status) from None
        return response

    def _failure(self, call: RestCall, response: requests.Response) -> ControlApiError:
        kind = RevisionGoneError if response.status_code == 410 else ControlApiError
        return kind(f"{self._name(call)}: {response.status_code}: {_error_message(response)}", response.status_code)

    def _name(self, call: RestCall) -> str:
        return f"{call.method} {call.path} of the {self.service_type} service"


def _error_message(response: requests.Response) -> str:
    """The message in an error's body, in the form of any service (`{"NeutronError": {"message": …}}`, …)."""
    message: str | None = None
    with contextlib.suppress(ValueError):
        message = _find_message(response.json())
    return (message or response.reason or "no reason given")[:_MAX_MESSAGE_CHARS]


def _find_message(body: Any) -> str | None:
    if not isinstance(body, Mapping):
        return body if isinstance(body, str) else None
    if isinstance(body.get("message"), str):
        return str(body["message"])
    return next((found for value in body.values() if (found := _find_message(value))), None)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:_MAX_MESSAGE_CHARS]
