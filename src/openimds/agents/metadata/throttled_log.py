"""Log events about the metadata API, each at most once a minute, and once when the problem is over."""

from __future__ import annotations

from collections.abc import Callable

import structlog

SECRETS_DIFFER = (
    "signature refused by the metadata API: metadata_proxy_shared_secret in metadata_agent.ini and [neutron]"
    " metadata_proxy_shared_secret in nova.conf differ; write the same text in both and restart what was changed"
)
_AGAIN_AFTER_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class ThrottledLog:
    """`clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said_at: dict[str, float] = {}
        self._away = False

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

    def _is_due(self, what: str) -> bool:
        now = self._clock()
        said_at = self._said_at.get(what)
        if said_at is not None and now - said_at < _AGAIN_AFTER_SECONDS:
            return False
        self._said_at[what] = now
        return True
