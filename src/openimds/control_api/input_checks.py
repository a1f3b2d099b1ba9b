"""The checks of every request's path, query and JSON body, before any handler runs.

Text: UTF-8 cannot encode a lone surrogate, so a stored one would make every later response with it fail. PostgreSQL refuses
NUL. Headers need no check: Starlette decodes them as Latin-1, and the HTTP server refuses NUL in them.

Numbers: no column holds an integer beyond 64 bits, and JSON cannot carry the infinity that Python reads from `1e400`.

Size: a few bytes of JSON become a Python object of a hundred, and recursive code fails on deep documents.
"""

from __future__ import annotations

import json
import math
import re
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from openimds.resources.text import is_malformed

MAX_PATH_CHARS = 4096
MAX_QUERY_PARAMETERS = 500
MAX_PARAMETER_CHARS = 16 * 1024
MAX_DEPTH = 32
"""Levels of lists and objects in a body. The deepest body of OpenStack's clients has about eight."""
MAX_VALUES = 50_000
"""Values in a body. The largest valid request, 500 ports with all attributes, has about 15,000."""

_SUSPICIOUS = re.compile(
    rb"\\u(?:[dD][89a-fA-F]|0000)"  # an escape of a surrogate or of NUL
    rb"|\x00|\xed[\xa0-\xbf]"  # NUL itself, as in UTF-16; a surrogate in the form of UTF-8
    rb"|[:,\[\s](?:-?(?:[0-9]{18}|[0-9.]+[eE]|Infinity)|NaN)"  # a number that may be too large
)
_PLACE_CHARS = 255
_INTEGERS = range(-(2**63), 2**63)


class InvalidInput(HTTPException):
    """400 with the name of the field. FastAPI passes an HTTPException of `receive` on."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(400, f"Invalid input for field {place[:_PLACE_CHARS]}: {reason}.")


MALFORMED = "it contains a lone surrogate or a NUL character"


def check_target(scope: Scope) -> None:
    """Raises InvalidInput for the path and the query of a request."""
    if len(scope["path"]) > MAX_PATH_CHARS:
        raise InvalidInput("path", f"it has more than {MAX_PATH_CHARS} characters")
    if is_malformed(scope["path"]):
        raise InvalidInput("path", MALFORMED)
    query: bytes = scope["query_string"]
    if query.count(b"&") >= MAX_QUERY_PARAMETERS:
        raise InvalidInput("query", f"it has more than {MAX_QUERY_PARAMETERS} parameters")
    if len(query) > MAX_PARAMETER_CHARS or b"%00" in query or b"\x00" in query:
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            _check_parameter(name, value)


def _check_parameter(name: str, value: str) -> None:
    if is_malformed(name) or is_malformed(value):
        raise InvalidInput("query" if is_malformed(name) else name, MALFORMED)
    if len(name) + len(value) > MAX_PARAMETER_CHARS:
        raise InvalidInput(name, f"it has more than {MAX_PARAMETER_CHARS} characters")


def checked_body(receive: Receive) -> Receive:
    """Wraps `receive` and raises InvalidInput at the end of a JSON body with an invalid value."""
    chunks: list[bytes] = []

    async def checked() -> Message:
        message = await receive()
        chunks.append(message.get("body", b""))
        if message["type"] == "http.request" and not message.get("more_body", False):
            _check(b"".join(chunks))
            chunks.clear()
        return message

    return checked


def _check(body: bytes) -> None:
    """Checks the decoded body. A body that is not JSON is accepted here, because Starlette rejects it later."""
    deep = body.count(b"[") + body.count(b"{") > MAX_DEPTH
    if not deep and body.count(b",") < MAX_VALUES and not _SUSPICIOUS.search(body):
        return
    try:
        document = json.loads(body)
    except RecursionError:
        raise InvalidInput("body", f"it has more than {MAX_DEPTH} levels") from None
    except ValueError:
        return
    check_document(document)


def check_document(document: object) -> None:
    """Raises InvalidInput for the first invalid value of a JSON document, with its place, like `port.tags[0]`.

    A malformed key counts as its object's.
    """
    pending: list[tuple[str, object, int]] = [("", document, 1)]
    values = 0
    while pending:
        place, value, depth = pending.pop()
        values += 1
        reason = _invalid(value)
        if reason is None and values > MAX_VALUES:
            place, reason = "body", f"it has more than {MAX_VALUES} values"
        if reason is None and depth > MAX_DEPTH:
            reason = f"it has more than {MAX_DEPTH} levels"
        if reason is not None:
            raise InvalidInput(place or "body", reason)
        pending.extend((name, entry, depth + 1) for name, entry in reversed(_entries(place, value)))


def _invalid(value: object) -> str | None:
    """The reason why this value is invalid, without the values in it. None if it is valid."""
    if isinstance(value, str):
        return MALFORMED if is_malformed(value) else None
    if isinstance(value, int):
        return None if value in _INTEGERS else "it is not an integer of 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else "it is not a finite number"
    if isinstance(value, dict) and any(is_malformed(key) for key in value):
        return MALFORMED
    return None


def _entries(place: str, value: object) -> list[tuple[str, object]]:
    """(place, value) of each entry of a list or an object."""
    if isinstance(value, dict):
        return [(f"{place}.{key}" if place else key, entry) for key, entry in value.items()]
    if isinstance(value, list):
        return [(f"{place}[{index}]", entry) for index, entry in enumerate(value)]
    return []
