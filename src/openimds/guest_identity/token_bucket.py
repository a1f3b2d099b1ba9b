"""Token buckets for the two windows of `[metadata_rate_limiting]`.

The bucket of a window holds `requests` tokens and refills within `seconds`. It allows a burst of `requests`, and the same
number per window continuously. A request takes a token of each window. A rejected request takes none, so that a client
that slows down is served again immediately.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateWindow:
    requests: int
    seconds: int


class TokenBucket:
    """The buckets of one client, for all its addresses and IP versions. Times are monotonic seconds."""

    __slots__ = ("_at", "_left", "_windows")

    def __init__(self, windows: tuple[RateWindow, ...], now: float) -> None:
        self._windows = windows
        self._left = [float(window.requests) for window in windows]
        self._at = now

    def take(self, now: float) -> bool:
        """Counts a request. Returns False if it exceeds the limit; it is then not counted."""
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
        """The time from the last `take` until a token is available, at least 1."""
        waits = (
            (1 - tokens) * window.seconds / window.requests
            for tokens, window in zip(self._left, self._windows, strict=True)
        )
        return max(1, math.ceil(max(waits, default=0)))
