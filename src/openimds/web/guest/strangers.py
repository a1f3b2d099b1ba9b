"""Requests that no port's bucket counts: malformed ones, and those of guests that nobody knows.

They are counted by what is known of who sends them: the listener, and the guest's MAC, or its address where the
listener does not tell MACs. The limits are those of a port.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from openimds.identity.bucket import Bucket
from openimds.web.guest.rates import Rate

MAX_STRANGERS = 20_000
"""Of the oldest it is forgotten what it asked."""


@dataclass(slots=True)
class _Stranger:
    bucket: Bucket
    waits_until: float = 0.0


class Strangers:
    """`clock` gives seconds that never go back."""

    def __init__(self, rate: Rate | None, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._known: dict[tuple[str, str], _Stranger] = {}

    def refused(self, listener: str, guest: str, address: str) -> None:
        """Count a request. `address`: where it came from, as far as the IP version tells whether it counts."""
        rate = self._rate
        if rate is None or not guest or (6 if ":" in address else 4) not in rate.ip_versions:
            return
        now = self._clock()
        stranger = self._known.get((listener, guest))
        if stranger is None:
            if len(self._known) >= MAX_STRANGERS:
                del self._known[next(iter(self._known))]
            stranger = self._known[listener, guest] = _Stranger(Bucket(rate.windows, now))
        if not stranger.bucket.take(now):
            stranger.waits_until = now + stranger.bucket.retry_after_seconds

    def wait_seconds(self, listener: str, guest: str) -> int:
        """For how long nothing that it asks shall be read; 0: it may ask."""
        stranger = self._known.get((listener, guest)) if self._known else None
        return max(0, ceil(stranger.waits_until - self._clock())) if stranger is not None else 0
