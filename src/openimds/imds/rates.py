"""Each port's bucket: how often its guest may ask (`[metadata_rate_limiting]`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openimds.guest_identity.addresses import Address
from openimds.guest_identity.token_bucket import Bucket, Window

MAX_BUCKETS = 20_000
"""A port whose bucket was dropped begins with a full one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    windows: tuple[Window, ...]
    ip_versions: frozenset[int]
    """Requests over others are not counted."""


class Rates:
    """`clock` gives seconds that never go back."""

    def __init__(self, rate: Rate | None, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}

    def bucket(self, port_id: str, address: Address) -> Bucket | None:
        """The port's, for IPv4 and IPv6 together; None: it may ask as often as it likes."""
        rate = self._rate
        if rate is None or address.version not in rate.ip_versions:
            return None
        bucket = self._buckets.get(port_id)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[port_id] = Bucket(rate.windows, self._clock())
        return bucket

    def allows(self, bucket: Bucket | None) -> bool:
        """May one more request be answered? It is counted if so."""
        return bucket is None or bucket.take(self._clock())
