"""What is refused before any handler sees it: bad framing, what took too long, too many connections.

A guest may have thousands of requests refused; the log has one line a minute for each listener, with their number.
Nothing that a peer wrote is in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import structlog

LOG_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class ClientBans(Protocol):
    """web.guest.strangers.Strangers: who has had too much refused waits before it is listened to again."""

    def refused(self, listener: str, mac: str, peer: str) -> None: ...
    def wait_seconds(self, listener: str, mac: str, peer: str) -> int:
        """0: it may ask."""


class NoBans:
    """Where guests do not come themselves nobody waits: a peer is then a proxy, with many guests behind it."""

    def refused(self, listener: str, mac: str, peer: str) -> None: ...

    def wait_seconds(self, _listener: str, _mac: str, _peer: str) -> int:
        return 0


class RejectionLog:
    """The first refusal of a listener is told at once; those of the minute after it together. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[str, Counter[int]] = {}
        self._quiet_until: dict[str, float] = {}

    def note(self, listener: str, status: int) -> None:
        self._counts.setdefault(listener, Counter())[status] += 1
        self.tell()

    def tell(self, *, everything: bool = False) -> None:
        """Write what is due; called from time to time. `everything`: also what is not, as this is the end."""
        if not self._quiet_until and not self._counts:
            return
        now = self._clock()
        for listener in [one for one, until in self._quiet_until.items() if until <= now]:
            del self._quiet_until[listener]
        for listener in [one for one in self._counts if everything or one not in self._quiet_until]:
            counts = self._counts.pop(listener)
            self._quiet_until[listener] = now + LOG_SECONDS
            statuses = ", ".join(f"{count} times {status}" for status, count in sorted(counts.items()))
            _log.info("requests were refused unread", listener=listener, count=counts.total(), statuses=statuses)
