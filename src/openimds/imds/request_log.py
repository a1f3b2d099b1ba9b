"""The log line of each request, and the request ID that all hops of a request share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from openimds.guest_identity.headers import REQUEST_ID, values

log = structlog.get_logger(__name__)

REQUEST_ANSWERED = "request answered"
REQUEST_GIVEN_UP = "request given up by its guest"
Line = Callable[[str, float], None]
"""Writes the same line for another request. Takes the request's ID and milliseconds."""


class RequestLog(Protocol):
    """The destination of request lines."""

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Line:
        """Returns a writer of lines with these facts. Each line adds a request ID and milliseconds."""


class StructuredLog:
    """Writes request lines through structlog, like all other lines. A line takes about 100 µs."""

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Line:
        write_line = log.warning if level == "warning" else log.info

        def write(request_id: str, milliseconds: float) -> None:
            write_line(event, request_id=request_id, **facts, ms=round(milliseconds, 2))

        return write


_FORM = re.compile(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PROXY_FORM = re.compile(r"[0-9A-Za-z_.:-]{1,64}")
"""The form of the IDs that a namespace proxy may send. The ID is logged unchanged."""


def request_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Returns the request ID of the metadata agent if it is well-formed, else a new one."""
    given = values(headers, REQUEST_ID)
    return given[0] if len(given) == 1 and _FORM.fullmatch(given[0]) else new_request_id()


def proxied_request_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Returns the request ID of a namespace proxy, which is the last one, if it is well-formed, else a new one."""
    given = values(headers, REQUEST_ID)
    return given[-1] if given and _PROXY_FORM.fullmatch(given[-1]) else new_request_id()


def new_request_id() -> str:
    """Returns `req-` and a random UUID."""
    if not _drawn:
        _draw()
    return _drawn.pop()


def _draw() -> None:
    """Makes many IDs at once, one column of hexadecimal digits after the other."""
    digits = os.urandom(_DRAWN_TOGETHER * len(_COLUMNS) // 2).hex().encode()
    ids = bytearray(_PATTERN * _DRAWN_TOGETHER)
    for number, column in enumerate(_COLUMNS):
        ids[column :: len(_PATTERN)] = digits[number :: len(_COLUMNS)]
    _drawn.extend(ids.decode().split())


_PATTERN = b"req-********-****-4***-a***-************ "
_COLUMNS = [place for place, letter in enumerate(_PATTERN) if letter == ord("*")]
_DRAWN_TOGETHER = 256
"""The kernel charges by the call: sixteen bytes at a time cost ten times as much."""
_drawn: list[str] = []
os.register_at_fork(after_in_child=_drawn.clear)  # two processes would give the same
