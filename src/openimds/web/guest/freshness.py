"""Is what was read still true? One look at the store's revision answers it for every request that waits.

A request may only rely on a look that began after the request came, or it could be told what was true before a change
that its sender has already seen done. So: at most one look is under way, and all who come meanwhile share the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

import structlog

from openimds.resources.errors import StoreUnavailable

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 2.0
"""How long a request waits for the store before it is served from memory."""
PATIENCE_WHEN_AWAY_SECONDS = 0.05
"""The same, once the store is known to be away."""


class Freshness:
    """Of one event loop."""

    def __init__(self, read_revision: Callable[[], int], executor: Executor) -> None:
        """`read_revision` raises StoreUnavailable when the store does not answer."""
        self._read_revision = read_revision
        self._executor = executor
        self._running: asyncio.Task[int | None] | None = None
        self._next: asyncio.Task[int | None] | None = None
        self.store_is_away = False

    async def revision(self) -> int | None:
        """The newest revision, as of now; None when the store does not answer."""
        if self._next is None:
            self._next = asyncio.create_task(self._look(self._running))
        patience = PATIENCE_WHEN_AWAY_SECONDS if self.store_is_away else PATIENCE_SECONDS
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(self._next)
        except TimeoutError:
            self._store_went(away=True)
            return None

    async def _look(self, before: asyncio.Task[int | None] | None) -> int | None:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        try:
            revision = await asyncio.get_running_loop().run_in_executor(self._executor, self._read_revision)
        except StoreUnavailable as error:
            self._store_went(away=True, reason=error.message)
            return None
        self._store_went(away=False)
        return revision

    def _store_went(self, *, away: bool, reason: str = "no answer in time") -> None:
        if away and not self.store_is_away:
            log.error("the store is away: instances that were asked for before are served from memory", reason=reason)
        elif not away and self.store_is_away:
            log.info("the store is back")
        self.store_is_away = away
