"""The check of all text in requests: lone surrogates and NUL are refused, before any handler runs.

UTF-8 cannot encode a lone surrogate, so a stored one would make every later response with it fail. PostgreSQL refuses NUL.
Headers need no check: Starlette decodes them as Latin-1, and the HTTP server refuses NUL in them.
"""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from openimds.resources.text import is_malformed, malformed_field

_SUSPICIOUS = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)|\x00|\xed[\xa0-\xbf]")
"""An escape of a surrogate or of NUL; NUL itself, as in UTF-16; a surrogate in the form of UTF-8."""
_PLACE_CHARS = 255


class MalformedTextError(HTTPException):
    """400. FastAPI passes an HTTPException of `receive` on."""

    def __init__(self, place: str) -> None:
        field = place[:_PLACE_CHARS]
        super().__init__(400, f"Invalid input for field {field}: it contains a lone surrogate or a NUL character.")


def check_target(scope: Scope) -> None:
    """Raises MalformedTextError for the path and the query of a request."""
    if is_malformed(scope["path"]):
        raise MalformedTextError("path")
    query = scope["query_string"]
    if b"%00" not in query and b"\x00" not in query:
        return
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if is_malformed(name) or is_malformed(value):
            raise MalformedTextError("query" if is_malformed(name) else name)


def checked_body(receive: Receive) -> Receive:
    """Wraps `receive` and raises MalformedTextError at the end of a JSON body that contains malformed text."""
    chunks: list[bytes] = []

    async def checked() -> Message:
        message = await receive()
        chunks.append(message.get("body", b""))
        if message["type"] == "http.request" and not message.get("more_body", False):
            _check(b"".join(chunks))
        return message

    return checked


def _check(body: bytes) -> None:
    """Checks the decoded body. A body that is not JSON is accepted here, because Starlette rejects it later."""
    if not _SUSPICIOUS.search(body):
        return
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    place = malformed_field(document)
    if place is not None:
        raise MalformedTextError(place or "body")
