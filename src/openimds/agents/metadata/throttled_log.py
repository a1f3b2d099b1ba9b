"""Log events about the metadata API and lookups, each at most once a minute, and once when the problem is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import structlog

SECRETS_DIFFER = (
    "signature refused by the metadata API: metadata_proxy_shared_secret in metadata_agent.ini and [neutron]"
    " metadata_proxy_shared_secret in nova.conf differ; write the same text in both and restart what was changed"
)
_AGAIN_AFTER_SECONDS = 60.0
SLOW_RESPONSE_SECONDS = 2.0
"""The time of a response of the control API from which lookups count as delayed."""

_log = structlog.get_logger(__name__)


class ThrottledLog:
    """`clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said_at: dict[str, float] = {}
        self._away = False
        self._delayed: Counter[str] = Counter()
        """The number of lookups by reason since the last event."""
        self._is_delayed = False
        self._slowest_seconds = 0.0

    def secrets_differ(self, upstream: str) -> None:
        if self._is_due("secrets"):
            _log.error(SECRETS_DIFFER, metadata_api=upstream)

    def upstream_away(self, reason: str) -> None:
        self._away = True
        if self._is_due("away"):
            _log.error("metadata API unavailable: clients get 503", reason=reason)

    def upstream_answers(self) -> None:
        if self._away:
            self._away = False
            self._said_at.pop("away", None)
            _log.info("metadata API available again")

    def lookups_delayed(self, reason: str, requests: int = 1) -> None:
        """Counts lookups of ports that have no result. Logs the counts by reason."""
        self._is_delayed = True
        self._delayed[reason] += requests
        if self._is_due("lookups"):
            _log.warning(
                "port lookups delayed: clients without a known port wait, or get 503",
                reasons=dict(self._delayed),
                slowest_response_seconds=round(self._slowest_seconds, 1),
            )
            self._delayed.clear()
            self._slowest_seconds = 0.0

    def lookups_answered(self, took_seconds: float, requests: int) -> None:
        """Records the time of a response to lookups."""
        self._slowest_seconds = max(self._slowest_seconds, took_seconds)
        if took_seconds >= SLOW_RESPONSE_SECONDS:
            self.lookups_delayed("the control API is slow", requests)
        elif self._is_delayed:
            self._is_delayed = False
            self._said_at.pop("lookups", None)
            _log.info("port lookups answered again", seconds=round(took_seconds, 2))

    def _is_due(self, what: str) -> bool:
        now = self._clock()
        said_at = self._said_at.get(what)
        if said_at is not None and now - said_at < _AGAIN_AFTER_SECONDS:
            return False
        self._said_at[what] = now
        return True
