"""How long an answer may be kept, as its sender says (RFC 9111, section 5.2.2).

Asking a dynamic vendor data target: one POST of JSON, with a Keystone token when there is somebody to be.
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
from openimds.resources.instance import VendorAnswer

LONGEST_SECONDS = 24 * 3600

_DIRECTIVE = re.compile(r"""([a-z0-9-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,"]*)))?""", re.IGNORECASE)


def fresh_seconds(cache_control: str | None, age: str | None = None) -> float:
    """`max-age=60` → 60; 0 without a word, and whenever in doubt. What an answer spent in caches on its way (`Age`) counts.

    Kept for one instance alone, so `private` is no hindrance and `s-maxage`, which speaks to shared caches, says nothing.
    """
    said = {name.lower(): quoted or plain for name, quoted, plain in _DIRECTIVE.findall(cache_control or "")}
    if "no-store" in said or "no-cache" in said:
        return 0
    seconds, spent = _seconds(said.get("max-age")), _seconds(age) or 0
    return 0 if seconds is None else float(min(max(0, seconds - spent), LONGEST_SECONDS))


def _seconds(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,10}", text) else None


MAX_ANSWER_BYTES = 1024 * 1024
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
    """For all of the answer, however slowly it drips."""


def vendor_post(
    session: Session, timeouts: VendorTimeouts, certfile: str | None
) -> Callable[[str, Mapping[str, Any]], VendorAnswer]:
    """A function (url, question) → the answer. It blocks, and raises PeerFailed.

    `certfile`: the authorities that vouch for https targets; None: the system's. A session without an auth plug-in
    asks without a token.
    """

    def post(url: str, question: Mapping[str, Any]) -> VendorAnswer:
        try:
            response = session.post(
                url,
                json=dict(question),
                headers=dict(_HEADERS),
                authenticated=session.auth is not None,
                verify=certfile or True,
                timeout=(timeouts.connect_seconds, timeouts.read_seconds),
                stream=True,
            )
            with response:
                return _answer(response, timeouts.read_seconds)
        except exceptions.ClientException as error:
            raise PeerFailed(f"{type(error).__name__}: {error}") from error
        except requests.RequestException as error:
            raise PeerFailed(f"its answer broke off: {type(error).__name__}") from error

    return post


def _answer(response: requests.Response, patience_seconds: float) -> VendorAnswer:
    body = _body(response, time.monotonic() + patience_seconds)
    try:
        content = json.loads(body) if body else None
    except ValueError as error:
        raise PeerFailed(f"its answer is not JSON: {error}") from error
    headers = response.headers
    return VendorAnswer(content, len(body), fresh_seconds(headers.get("Cache-Control"), headers.get("Age")))


def _body(response: requests.Response, deadline: float) -> bytes:
    """As much as may be, and by the deadline: each piece has its own time-out, and a target may send many."""
    body = b""
    for piece in response.iter_content(_CHUNK_BYTES):
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise PeerFailed(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise PeerFailed("its answer took too long")
    return body
