"""The metrics of a metadata service.

A request adds to plain numbers only. prometheus_client receives the sums some times per second.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Mapping

from prometheus_client import Counter, Gauge, Histogram

SECONDS_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

SIGNATURES = Counter(
    "openimds_metadata_signatures",
    "Requests by the shared secret that signed them: current, previous, none.",
    ["secret"],
)
REQUESTS = Counter("openimds_metadata_requests", "Responses by status.", ["status"])
SECONDS = Histogram(
    "openimds_metadata_request_seconds",
    "Time from a complete request to its response.",
    buckets=SECONDS_BOUNDS,
)
STORE_AWAY = Gauge(
    "openimds_metadata_store_away",
    "1 while the store does not respond and instances are served from the cache.",
    multiprocess_mode="livemax",
)


FLUSH_SECONDS = 0.05


class MetricsBuffer:
    """Belongs to the event loop. `flush` must be called before the metrics are read."""

    on_responses: Callable[[Mapping[int, int]], None] | None = None
    """Receives the number of responses by status at each flush."""

    def __init__(self) -> None:
        self._answers: Counts[int] = Counts()
        self._signatures: Counts[str] = Counts()
        self._repeats: dict[str, list[float]] = {"current": [], "previous": [], "": []}
        """The seconds of each replayed response, by the name of the secret. `flush` adds them up, because most responses
        are replayed."""
        self._buckets = [0] * (len(SECONDS_BOUNDS) + 1)
        self._seconds = 0.0
        self._waits = False

    def answered(self, status: int, seconds: float) -> None:
        """Counts one response."""
        if not self._waits:
            self._flush_soon()
        self._answers[status] += 1
        self._seconds += seconds
        self._buckets[bisect_left(SECONDS_BOUNDS, seconds)] += 1

    def repeated(self, secret: str, seconds: float) -> None:
        """Counts a replayed response with status 200. `secret`: the name of the request's secret. Empty if it is unsigned."""
        if not self._waits:
            self._flush_soon()
        self._repeats[secret].append(seconds)

    def signed(self, secret: str) -> None:
        """Counts one signature by the name of the secret."""
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
        if self.on_responses is not None:
            self.on_responses(answers)
        for status, count in answers.items():
            REQUESTS.labels(str(status)).inc(count)
        for secret, count in signatures.items():
            SIGNATURES.labels(secret).inc(count)
        # The library observes only one value per call. Its buckets are independent counters.
        for bucket, count in zip(SECONDS._buckets, buckets, strict=True):  # noqa: SLF001
            if count:
                bucket.inc(count)
        SECONDS._sum.inc(seconds)  # noqa: SLF001


def _sort_into(buckets: list[int], took: list[float]) -> None:
    """Adds the seconds to the buckets. Nearly all are below the first bound."""
    longer = [seconds for seconds in took if seconds > SECONDS_BOUNDS[0]]
    buckets[0] += len(took) - len(longer)
    for seconds in longer:
        buckets[bisect_left(SECONDS_BOUNDS, seconds)] += 1


METRICS = MetricsBuffer()
"""The metrics of this process."""
