"""How often one port may ask: a token bucket for each of the two windows of `[metadata_rate_limiting]`.

A window of `seconds` with `requests` is a bucket that holds so many and fills up again in so long: that many at once,
and that many a window for as long as one likes. A request takes one of both. One that is refused takes none, so that
who slows down is served again at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateWindow:
    requests: int
    seconds: int


class TokenBucket:
    """Of one port, all its addresses and IP versions together. Times are seconds that never go back."""

    __slots__ = ("_at", "_left", "_windows")

    def __init__(self, windows: tuple[RateWindow, ...], now: float) -> None:
        self._windows = windows
        self._left = [float(window.requests) for window in windows]
        self._at = now

    def take(self, now: float) -> bool:
        """May another request be answered? It is counted if so."""
        left = self._left
        passed = now - self._at
        if passed > 0:
            self._at = now
            for place, window in enumerate(self._windows):
                left[place] = min(float(window.requests), left[place] + passed * window.requests / window.seconds)
        for tokens in left:
            if tokens < 1:
                return False
        for place in range(len(left)):
            left[place] -= 1
        return True

    @property
    def retry_after_seconds(self) -> int:
        """For how long, counted from the last `take`, none will be left: at least 1."""
        waits = (
            (1 - tokens) * window.seconds / window.requests
            for tokens, window in zip(self._left, self._windows, strict=True)
        )
        return max(1, math.ceil(max(waits, default=0)))
