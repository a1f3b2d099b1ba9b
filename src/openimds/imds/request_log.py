"""One log line a request.

One id for a request on its whole way.
"""

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
_MAX_PATH = 200
Line = Callable[[str, float], None]
"""Writes a line of known facts for one more request: (its id, its milliseconds)."""


class RequestLog(Protocol):
    """Where lines go. All facts of a line but the request's id and time are fixed by `line`."""

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Line: ...


class StructuredLog:
    """Through structlog, as every other line: some 100 µs each."""

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Line:
        write_line = log.warning if level == "warning" else log.info

        def write(request_id: str, milliseconds: float) -> None:
            write_line(event, request_id=request_id, **facts, ms=round(milliseconds, 2))

        return write


def logged_path(target: bytes) -> str:
    """A request's target as lines show it: without its query, and not all of a very long one."""
    return target.split(b"?", 1)[0].decode("latin-1")[:_MAX_PATH]


_FORM = re.compile(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def request_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The id that the hop before gave, if there is one and it has the form of one; else a new one."""
    given = values(headers, REQUEST_ID)
    if len(given) == 1 and _FORM.fullmatch(given[0]):
        return given[0]
    return new_request_id()


def new_request_id() -> str:
    """A random UUID behind `req-`."""
    if not _drawn:
        _draw()
    return _drawn.pop()


def _draw() -> None:
    """Write all ids at once, a column after the other."""
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
