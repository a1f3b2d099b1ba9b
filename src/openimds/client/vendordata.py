"""Sends requests to dynamic vendor data targets: a POST of JSON, with a Keystone token if credentials are configured.

The `Cache-Control` header of the response decides how long it stays fresh (RFC 9111, section 5.2.2).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests
from keystoneauth1 import exceptions
from keystoneauth1.session import Session

from openimds.resources.errors import PeerFailed
from openimds.resources.instance import VendordataResponse

MAX_FRESH_SECONDS = 24 * 3600

_DIRECTIVE = re.compile(r"""([a-z0-9-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,"]*)))?""", re.IGNORECASE)


def fresh_seconds(cache_control: str | None, age: str | None = None) -> float:
    """The seconds for which a response stays fresh: `max-age` minus `Age`, and 0 without a valid `max-age`.

    The cache is private, because each response belongs to one instance. So `private` permits caching, and `s-maxage`,
    which is for shared caches, is ignored.
    """
    directives = {name.lower(): quoted or plain for name, quoted, plain in _DIRECTIVE.findall(cache_control or "")}
    if "no-store" in directives or "no-cache" in directives:
        return 0
    max_age, age_seconds = _seconds(directives.get("max-age")), _seconds(age) or 0
    return 0 if max_age is None else float(min(max(0, max_age - age_seconds), MAX_FRESH_SECONDS))


def _seconds(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,10}", text) else None


MAX_RESPONSE_BYTES = 1024 * 1024
_CHUNK_BYTES = 64 * 1024

_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "User-Agent": "openimds-vendordata",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorTimeouts:
    connect_seconds: float
    read_seconds: float
    """The timeout for the complete response."""


def vendor_post(
    session: Session, timeouts: VendorTimeouts, certfile: str | None
) -> Callable[[str, Mapping[str, Any]], VendordataResponse]:
    """Returns a blocking function that posts a JSON object to a URL. The function raises PeerFailed.

    `certfile` contains the CA certificates for https targets. If it is None, those of the system are used. A session
    without an auth plug-in sends no token.
    """

    def post(url: str, body_fields: Mapping[str, Any]) -> VendordataResponse:
        try:
            response = session.post(
                url,
                json=dict(body_fields),
                headers=dict(_HEADERS),
                authenticated=session.auth is not None,
                verify=certfile or True,
                timeout=(timeouts.connect_seconds, timeouts.read_seconds),
                stream=True,
            )
            with response:
                return _parse_response(response, timeouts.read_seconds)
        except exceptions.ClientException as error:
            raise PeerFailed(f"{type(error).__name__}: {error}") from error
        except requests.RequestException as error:
            raise PeerFailed(f"its response was cut off: {type(error).__name__}") from error

    return post


def _parse_response(response: requests.Response, timeout_seconds: float) -> VendordataResponse:
    body = _body(response, time.monotonic() + timeout_seconds)
    try:
        content = json.loads(body) if body else None
    except ValueError as error:
        raise PeerFailed(f"its response is not JSON: {error}") from error
    headers = response.headers
    return VendordataResponse(content, len(body), fresh_seconds(headers.get("Cache-Control"), headers.get("Age")))


def _body(response: requests.Response, deadline: float) -> bytes:
    """Reads the body up to the size limit and the deadline. requests' own timeout applies only to each chunk."""
    body = b""
    for piece in response.iter_content(_CHUNK_BYTES):
        body += piece
        if len(body) > MAX_RESPONSE_BYTES:
            raise PeerFailed(f"its response is larger than {MAX_RESPONSE_BYTES} bytes")
        if time.monotonic() > deadline:
            raise PeerFailed("its response took too long")
    return body
