"""Polls the changes of a store, and reports them to the cache.

The poller has a thread of its own, because stores block. A database gets one short query per `poll_seconds`, whatever
the load. A source whose `newest` waits for changes is called again immediately.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from openimds.imds.metrics import STORE_AWAY
from openimds.resources.errors import NotOffered, StoreUnavailable
from openimds.resources.instance import ChangeSet

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollIntervals:
    poll_seconds: float = 0.02
    """The time between two queries. 0 for a source whose `newest` waits for changes."""
    away_seconds: float = 2.0
    """A store without a response for this time is unavailable."""
    retry_seconds: float = 0.02
    """The time between a failed query and the next one."""


class ChangeFeed(Protocol):
    """The changes of a store. Both methods may block and raise StoreUnavailable."""

    def newest(self) -> int: ...
    def after(self, revision: int | None) -> ChangeSet: ...


class ChangePoller:
    """Polls for changes from `start` to `stop`. Calls `on_changes` on the event loop with each change set."""

    def __init__(
        self,
        changes: ChangeFeed,
        on_changes: Callable[[ChangeSet], None],
        intervals: PollIntervals | None = None,
        *,
        reports_first_failure: bool = True,
    ) -> None:
        """`reports_first_failure`: whether a source that has never responded counts as unavailable. It may not exist."""
        self._changes = changes
        self._on_changes = on_changes
        self._intervals = intervals or PollIntervals()
        self._reports_failures = reports_first_failure
        self._stopped = threading.Event()
        self._revision: int | None = None
        self._responded_at = time.monotonic()
        self._is_away = False
        self._thread = threading.Thread(target=self._run, name="freshness", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._check: asyncio.TimerHandle | None = None

    @property
    def store_is_away(self) -> bool:
        return self._is_away

    def start(self) -> None:
        """Called from the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._check_silence()

    def stop(self) -> None:
        self._stopped.set()
        if self._check is not None:
            self._check.cancel()

    def _run(self) -> None:
        while not self._stopped.wait(self._intervals.poll_seconds):
            try:
                self._poll()
            except NotOffered:
                self._responded_at = time.monotonic()
                self._stopped.wait(self._intervals.retry_seconds)
            except StoreUnavailable as error:
                self._call_on_loop(self._set_store_state, True, error.message)
                self._stopped.wait(self._intervals.retry_seconds)
            except Exception:
                log.exception("store changes unreadable")
                self._revision = None  # the missed changes are unknown, so everything counts as changed
                self._stopped.wait(1)
            else:
                self._responded_at = time.monotonic()
                self._reports_failures = True
                if self._is_away:
                    self._call_on_loop(self._set_store_state, False, "")

    def _poll(self) -> None:
        if self._revision is not None and self._changes.newest() == self._revision:
            return
        touched = self._changes.after(self._revision)
        self._call_on_loop(self._on_changes, touched)
        self._revision = touched.revision

    def _call_on_loop(self, what: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed() and not self._stopped.is_set():
            self._loop.call_soon_threadsafe(what, *arguments)

    def _check_silence(self) -> None:
        away_seconds = self._intervals.away_seconds
        if time.monotonic() - self._responded_at > away_seconds:
            self._set_store_state(True, f"no response for {away_seconds:g} s")
        self._check = self._loop.call_later(away_seconds / 4, self._check_silence)

    def _set_store_state(self, away: bool, reason: str) -> None:
        if not self._reports_failures:
            return
        if away and not self._is_away:
            log.error("store unavailable: cached instances are served", reason=reason)
        elif not away and self._is_away:
            log.info("store available again")
        self._is_away = away
        STORE_AWAY.set(away)
