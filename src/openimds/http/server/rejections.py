"""Requests and connections that the server rejects before the handler: malformed or slow requests, too many connections.

A client can cause thousands of rejections. The log has one line per minute and listener with their number, without any
text of a client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import structlog

LOG_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class ClientBans(Protocol):
    """Bans of clients with too many rejected requests."""

    def count(self, listener: str, mac: str, peer: str) -> None:
        """Counts a rejected request."""

    def wait_seconds(self, listener: str, mac: str, peer: str) -> int:
        """Returns the remaining seconds of the client's ban, 0 without a ban."""


class RejectionLog:
    """Logs the first rejection of a listener immediately, and those of the following minute together.

    `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[str, Counter[int]] = {}
        self._quiet_until: dict[str, float] = {}

    def note(self, listener: str, status: int) -> None:
        self._counts.setdefault(listener, Counter())[status] += 1
        self.flush()

    def flush(self, *, everything: bool = False) -> None:
        """Logs the counts that are due. Called periodically. `everything` logs all counts, and is used when the server ends."""
        if not self._quiet_until and not self._counts:
            return
        now = self._clock()
        for listener in [one for one, until in self._quiet_until.items() if until <= now]:
            del self._quiet_until[listener]
        for listener in [one for one in self._counts if everything or one not in self._quiet_until]:
            counts = self._counts.pop(listener)
            self._quiet_until[listener] = now + LOG_SECONDS
            statuses = ", ".join(f"{count} times {status}" for status, count in sorted(counts.items()))
            _log.info("requests rejected by the server", listener=listener, count=counts.total(), statuses=statuses)
