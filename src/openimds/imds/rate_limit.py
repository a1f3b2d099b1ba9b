"""Rate limits of the metadata agent (`[metadata_rate_limiting]`) in direct mode.

The bucket of a port counts the requests of its instance. Requests without a port (malformed ones, and those of unknown
clients) are counted by client, with the same limits. A change that may give a client a port resets its count.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import ceil

from cachetools import FIFOCache

from openimds.guest_identity.addresses import Address, client_key
from openimds.guest_identity.token_bucket import RateWindow, TokenBucket

MAX_BUCKETS = 20_000
"""The oldest bucket is dropped beyond this number. Its port starts again with a full bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    windows: tuple[RateWindow, ...]
    ip_versions: frozenset[int]
    """The IP versions whose requests are counted."""


class PortRateLimiter:
    """`clock` returns monotonic seconds."""

    def __init__(self, rate: RateLimit, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: FIFOCache[str, TokenBucket] = FIFOCache(MAX_BUCKETS)

    def bucket(self, port_id: str, address: Address) -> TokenBucket | None:
        """Returns the port's bucket, for IPv4 and IPv6 together. None if requests of this version are not counted."""
        rate = self._rate
        if address.version not in rate.ip_versions:
            return None
        try:
            return self._buckets[port_id]
        except KeyError:
            bucket = self._buckets[port_id] = TokenBucket(rate.windows, self._clock())
            return bucket

    def allows(self, bucket: TokenBucket) -> bool:
        """Counts a request. Returns False if it exceeds the limit; it is then not counted."""
        return bucket.take(self._clock())


MAX_UNKNOWN_CLIENTS = 20_000
"""The oldest count is dropped beyond this number."""

_Key = tuple[str, str]


@dataclass(slots=True)
class _UnknownClient:
    bucket: TokenBucket
    reset_keys: frozenset[str]
    """The client's MAC, and its router."""
    banned_until: float = 0.0


class UnknownClientLimiter:
    """Counts requests without a port. `clock` returns monotonic seconds.

    In all methods, `mac` is empty if it is unknown. A client without an address (on a unix socket) is not counted.
    """

    def __init__(self, rate: RateLimit, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._clients: dict[_Key, _UnknownClient] = {}
        self._by_reset_key: dict[str, set[_Key]] = {}

    def count(self, listener: str, mac: str, peer: str) -> None:
        """Counts a request, and bans the client if it exceeds the limit."""
        rate = self._rate
        if not peer or (6 if ":" in peer else 4) not in rate.ip_versions:
            return
        now = self._clock()
        key = (listener, client_key(listener, mac, peer))
        client = self._clients.get(key) or self._add(
            key, _UnknownClient(TokenBucket(rate.windows, now), _reset_keys(listener, mac))
        )
        if not client.bucket.take(now):
            client.banned_until = now + client.bucket.retry_after_seconds

    def wait_seconds(self, listener: str, mac: str, peer: str) -> int:
        """Returns the remaining seconds of the client's ban, 0 without a ban."""
        if not self._clients or not peer:
            return 0
        client = self._clients.get((listener, client_key(listener, mac, peer)))
        return max(0, ceil(client.banned_until - self._clock())) if client is not None else 0

    def reset(self, touched: AbstractSet[Hashable]) -> None:
        """Drops the counts of the clients with these MACs, or behind these routers."""
        for reset_key in self._by_reset_key.keys() & touched:
            for key in tuple(self._by_reset_key[reset_key]):
                self._drop(key)

    def _add(self, key: _Key, client: _UnknownClient) -> _UnknownClient:
        if len(self._clients) >= MAX_UNKNOWN_CLIENTS:
            self._drop(next(iter(self._clients)))
        self._clients[key] = client
        for reset_key in client.reset_keys:
            self._by_reset_key.setdefault(reset_key, set()).add(key)
        return client

    def _drop(self, key: _Key) -> None:
        for reset_key in self._clients.pop(key).reset_keys:
            keys = self._by_reset_key[reset_key]
            keys.discard(key)
            if not keys:
                del self._by_reset_key[reset_key]


def _reset_keys(listener: str, mac: str) -> frozenset[str]:
    kind, _, scope_id = listener.partition(":")
    return frozenset({mac, scope_id} if kind == "router" else {mac})
