"""Asking a dynamic vendor data target: one POST of JSON, with a Keystone token when there is somebody to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keystoneauth1 import exceptions
from keystoneauth1.session import Session

from openimds.resources.errors import PeerFailed

MAX_ANSWER_BYTES = 1024 * 1024

_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "User-Agent": "openimds-vendordata",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorTimeouts:
    connect_seconds: float
    read_seconds: float


def vendor_post(
    session: Session, timeouts: VendorTimeouts, certfile: str | None
) -> Callable[[str, Mapping[str, Any]], Any]:
    """A function (url, question) → the answer's JSON, None for an empty answer. It raises PeerFailed.

    `certfile`: the authorities that vouch for https targets; None: the system's. A session without an auth plug-in
    asks without a token.
    """

    def post(url: str, question: Mapping[str, Any]) -> Any:
        try:
            response = session.post(
                url,
                json=dict(question),
                headers=dict(_HEADERS),
                authenticated=session.auth is not None,
                verify=certfile or True,
                timeout=(timeouts.connect_seconds, timeouts.read_seconds),
            )
            if len(response.content) > MAX_ANSWER_BYTES:
                raise PeerFailed(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
            return response.json() if response.content else None
        except exceptions.ClientException as error:
            raise PeerFailed(f"{type(error).__name__}: {error}") from error
        except ValueError as error:
            raise PeerFailed(f"its answer is not JSON: {error}") from error

    return post
