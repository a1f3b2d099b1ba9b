"""What is counted.

Counting without a price: sums are kept in plain numbers and handed to prometheus_client some times a second.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter as Counts

from prometheus_client import Counter, Gauge, Histogram

SECONDS_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

SIGNATURES = Counter(
    "openimds_metadata_signatures",
    "Requests by the shared secret that signed them: current, previous, none.",
    ["secret"],
)
REQUESTS = Counter("openimds_metadata_requests", "Requests by the status of their answer.", ["status"])
SECONDS = Histogram(
    "openimds_metadata_request_seconds",
    "Time from a complete request to its answer.",
    buckets=SECONDS_BOUNDS,
)
STORE_AWAY = Gauge(
    "openimds_metadata_store_away",
    "1 while the store does not answer and instances are served from memory.",
    multiprocess_mode="livemax",
)


FLUSH_SECONDS = 0.05


class MetricsBuffer:
    """Of one event loop. `flush` before anybody reads the figures."""

    def __init__(self) -> None:
        self._answers: Counts[int] = Counts()
        self._signatures: Counts[str] = Counts()
        self._repeats: dict[str, list[float]] = {"current": [], "previous": [], "": []}
        """Each one's seconds, by the name of the secret: of these there are most, so they are summed up by `flush`."""
        self._buckets = [0] * (len(SECONDS_BOUNDS) + 1)
        self._seconds = 0.0
        self._waits = False

    def answered(self, status: int, seconds: float) -> None:
        """Count one request."""
        if not self._waits:
            self._flush_soon()
        self._answers[status] += 1
        self._seconds += seconds
        self._buckets[bisect_left(SECONDS_BOUNDS, seconds)] += 1

    def repeated(self, secret: str, seconds: float) -> None:
        """Count a request that was answered with 200, signed with the secret of this name (empty: not signed)."""
        if not self._waits:
            self._flush_soon()
        self._repeats[secret].append(seconds)

    def signed(self, secret: str) -> None:
        """Count one signature, by the name of the secret."""
        self._signatures[secret] += 1

    def _flush_soon(self) -> None:
        self._waits = True
        asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        self._waits = False
        answers, self._answers = self._answers, Counts()
        signatures, self._signatures = self._signatures, Counts()
        buckets, self._buckets = self._buckets, [0] * (len(SECONDS_BOUNDS) + 1)
        seconds, self._seconds = self._seconds, 0.0
        for secret, took in self._repeats.items():
            self._repeats[secret] = []
            if secret:
                signatures[secret] += len(took)
            answers[200] += len(took)
            seconds += sum(took)
            _sort_into(buckets, took)
        for status, count in answers.items():
            REQUESTS.labels(str(status)).inc(count)
        for secret, count in signatures.items():
            SIGNATURES.labels(secret).inc(count)
        # The library observes one value at a time only; its buckets are counters of their own, not yet summed up.
        for bucket, count in zip(SECONDS._buckets, buckets, strict=True):  # noqa: SLF001
            if count:
                bucket.inc(count)
        SECONDS._sum.inc(seconds)  # noqa: SLF001


def _sort_into(buckets: list[int], took: list[float]) -> None:
    """Count these seconds in the buckets. Nearly all are shorter than the first bound."""
    longer = [seconds for seconds in took if seconds > SECONDS_BOUNDS[0]]
    buckets[0] += len(took) - len(longer)
    for seconds in longer:
        buckets[bisect_left(SECONDS_BOUNDS, seconds)] += 1


METRICS = MetricsBuffer()
"""A process's."""
