"""Each port's bucket: how often its guest may ask (`[metadata_rate_limiting]`).

Requests that no port's bucket counts: malformed ones, and those of guests that nobody knows.

They are counted by what is known of who sends them (`identity.source.guest_at`). The limits are those of a port. Whom
news concern begins anew: nobody knew it, and now somebody may.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import ceil

from openimds.guest_identity.addresses import Address, client_key
from openimds.guest_identity.token_bucket import RateWindow, TokenBucket

MAX_BUCKETS = 20_000
"""A port whose bucket was dropped begins with a full one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    windows: tuple[RateWindow, ...]
    ip_versions: frozenset[int]
    """Requests over others are not counted."""


class PortRateLimiter:
    """`clock` gives seconds that never go back."""

    def __init__(self, rate: RateLimit | None, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def bucket(self, port_id: str, address: Address) -> TokenBucket | None:
        """The port's, for IPv4 and IPv6 together; None: it may ask as often as it likes."""
        rate = self._rate
        if rate is None or address.version not in rate.ip_versions:
            return None
        bucket = self._buckets.get(port_id)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[port_id] = TokenBucket(rate.windows, self._clock())
        return bucket

    def allows(self, bucket: TokenBucket | None) -> bool:
        """May one more request be answered? It is counted if so."""
        return bucket is None or bucket.take(self._clock())


MAX_STRANGERS = 20_000
"""Of the oldest it is forgotten what it asked."""

_Key = tuple[str, str]


@dataclass(slots=True)
class _Stranger:
    bucket: TokenBucket
    known_by: frozenset[str]
    """Its MAC, and the router that it is behind."""
    waits_until: float = 0.0


class UnknownClientLimiter:
    """`clock` gives seconds that never go back. `mac`: empty where it is not known. `peer`: an address."""

    def __init__(self, rate: RateLimit | None, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._known: dict[_Key, _Stranger] = {}
        self._known_by: dict[str, set[_Key]] = {}

    def refused(self, listener: str, mac: str, peer: str) -> None:
        """Count a request."""
        rate = self._rate
        if rate is None or not peer or (6 if ":" in peer else 4) not in rate.ip_versions:
            return
        now = self._clock()
        key = (listener, client_key(listener, mac, peer))
        stranger = self._known.get(key) or self._enter(
            key, _Stranger(TokenBucket(rate.windows, now), _words(listener, mac))
        )
        if not stranger.bucket.take(now):
            stranger.waits_until = now + stranger.bucket.retry_after_seconds

    def wait_seconds(self, listener: str, mac: str, peer: str) -> int:
        """For how long nothing that it asks shall be read; 0: it may ask."""
        if not self._known or not peer:
            return 0
        stranger = self._known.get((listener, client_key(listener, mac, peer)))
        return max(0, ceil(stranger.waits_until - self._clock())) if stranger is not None else 0

    def heard(self, touched: AbstractSet[str]) -> None:
        """Of ports with these MACs, or behind these routers, something changed."""
        for word in self._known_by.keys() & touched:
            for key in tuple(self._known_by[word]):
                self._forget(key)

    def _enter(self, key: _Key, stranger: _Stranger) -> _Stranger:
        if len(self._known) >= MAX_STRANGERS:
            self._forget(next(iter(self._known)))
        self._known[key] = stranger
        for word in stranger.known_by:
            self._known_by.setdefault(word, set()).add(key)
        return stranger

    def _forget(self, key: _Key) -> None:
        for word in self._known.pop(key).known_by:
            others = self._known_by[word]
            others.discard(key)
            if not others:
                del self._known_by[word]


def _words(listener: str, mac: str) -> frozenset[str]:
    kind, _, scope_id = listener.partition(":")
    return frozenset({mac, scope_id} if kind == "router" else {mac})
