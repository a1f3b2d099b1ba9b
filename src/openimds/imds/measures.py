"""What is counted."""

from __future__ import annotations

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
