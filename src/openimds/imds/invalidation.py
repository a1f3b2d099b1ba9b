"""Looks at the store's revision, again and again, and tells what changed since: memory is right again soon after.

A thread of its own, as stores block. The price of a database is one short question every `look_seconds`, whatever the
load; a source whose `newest` itself waits for news is asked again at once.
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
from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import ChangeSet

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollIntervals:
    look_seconds: float = 0.02
    """Between two questions; 0 for a source whose `newest` waits for news."""
    away_seconds: float = 2.0
    """A store that is silent for longer is away, even if it does not say so."""
    retry_seconds: float = 0.02
    """Between a question that failed and the next."""


class ChangeFeed(Protocol):
    """The store. Both raise StoreUnavailable, and may block."""

    def newest(self) -> int: ...
    def after(self, revision: int | None) -> ChangeSet: ...


class ChangePoller:
    """`heard` is called on the event loop with everything that changes from `start` on."""

    def __init__(
        self, changes: ChangeFeed, heard: Callable[[ChangeSet], None], pace: PollIntervals | None = None
    ) -> None:
        self._changes = changes
        self._heard = heard
        self._pace = pace or PollIntervals()
        self._stopped = threading.Event()
        self._revision: int | None = None
        self._answered_at = time.monotonic()
        self._is_away = False
        self._thread = threading.Thread(target=self._run, name="freshness", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._check: asyncio.TimerHandle | None = None

    @property
    def store_is_away(self) -> bool:
        return self._is_away

    def start(self) -> None:
        """From the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._watch_silence()

    def stop(self) -> None:
        self._stopped.set()
        if self._check is not None:
            self._check.cancel()

    def _run(self) -> None:
        while not self._stopped.wait(self._pace.look_seconds):
            try:
                self._look()
            except StoreUnavailable as error:
                self._tell(self._store_went, True, error.message)
                self._stopped.wait(self._pace.retry_seconds)
            except Exception:
                log.exception("the store's changes could not be read")
                self._revision = None  # what was missed is not known
                self._stopped.wait(1)
            else:
                self._answered_at = time.monotonic()
                if self._is_away:
                    self._tell(self._store_went, False, "")

    def _look(self) -> None:
        if self._revision is not None and self._changes.newest() == self._revision:
            return
        touched = self._changes.after(self._revision)
        self._tell(self._heard, touched)
        self._revision = touched.revision

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed() and not self._stopped.is_set():
            self._loop.call_soon_threadsafe(what, *arguments)

    def _watch_silence(self) -> None:
        away_seconds = self._pace.away_seconds
        if time.monotonic() - self._answered_at > away_seconds:
            self._store_went(True, f"no answer for {away_seconds:g} s")
        self._check = self._loop.call_later(away_seconds / 4, self._watch_silence)

    def _store_went(self, away: bool, reason: str) -> None:
        if away and not self._is_away:
            log.error("the store is away: instances that were asked for before are served from memory", reason=reason)
        elif not away and self._is_away:
            log.info("the store is back")
        self._is_away = away
        STORE_AWAY.set(away)
