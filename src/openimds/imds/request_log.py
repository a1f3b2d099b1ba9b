"""One log line a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

REQUEST_ANSWERED = "request answered"
REQUEST_GIVEN_UP = "request given up by its guest"
_MAX_PATH = 200
Line = Callable[[str, float], None]
"""Writes a line of known facts for one more request: (its id, its milliseconds)."""


class RequestLog(Protocol):
    """Where lines go. All facts of a line but the request's id and time are fixed by `line`."""

    def line(self, event: str, facts: Mapping[str, object]) -> Line: ...


class StructuredLog:
    """Through structlog, as every other line: some 100 µs each."""

    def line(self, event: str, facts: Mapping[str, object]) -> Line:
        def write(request_id: str, milliseconds: float) -> None:
            log.info(event, request_id=request_id, **facts, ms=round(milliseconds, 2))

        return write


def logged_path(target: bytes) -> str:
    """A request's target as lines show it: without its query, and not all of a very long one."""
    return target.split(b"?", 1)[0].decode("latin-1")[:_MAX_PATH]
