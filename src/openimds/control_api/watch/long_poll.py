"""Wakes waiting long polls with one query of the store.

While at least one request waits, one task of the event loop reads the changed kinds from the store every POLL_SECONDS, and
immediately after a commit of this process. It wakes only requests that wait for one of these kinds. A waiting request uses
no thread and no database connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from starlette.concurrency import run_in_threadpool

from openimds.resources.errors import OpenimdsError

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1
"""Commits of other processes are seen within this time. docs/design/watch.md promises 200 ms."""


class WatchSource(Protocol):
    """The change log of the store."""

    def touched_since(self, revision: int) -> tuple[int, frozenset[str]]:
        """(newest revision, the kinds that changed after `revision`)."""
        ...

    def on_commit(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Calls `listener` after each commit of this process, on any thread. Returns a function that ends the subscription."""
        ...


@dataclass(eq=False, slots=True)
class _Waiter:
    kinds: frozenset[str]
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class ChangeNotifier:
    """Wakes requests of one event loop. All methods except `close` are called on that loop."""

    def __init__(self, source: WatchSource) -> None:
        self._source = source
        self._waiters: set[_Waiter] = set()
        self._committed = asyncio.Event()
        self._seen = 0
        self._latest: dict[str, int] = {}
        """Kind → a revision at or after the newest change of the kind that was seen."""
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_closed = False

    def close(self) -> None:
        """Wakes all waiters and makes all later waits return immediately. Can be called on any thread."""
        self.is_closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            waiter.woken.set()

    async def wait(self, kinds: frozenset[str], after: int, timeout_seconds: float) -> bool:
        """Waits for a change of these kinds after the revision `after`. Returns False on timeout.

        Returns True also when the notifier is closed.
        """
        self._loop = asyncio.get_running_loop()
        self._watch_from(after)
        if self.is_closed or any(self._latest.get(kind, 0) > after for kind in kinds):
            return True
        waiter = _Waiter(kinds)
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await waiter.woken.wait()
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)

    def _watch_from(self, revision: int) -> None:
        if self._task is not None and not self._task.done():
            return
        # The first waiter has all changes up to its revision, and no other request waits at this time.
        self._seen = revision
        self._latest = {}
        self._committed = asyncio.Event()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        stop = self._source.on_commit(lambda _revision: _set(loop, self._committed))
        try:
            while True:
                await self._next_poll()
                if not self._waiters:
                    return
                await self._poll()
        finally:
            stop()

    async def _next_poll(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._committed.wait()
        except TimeoutError:
            pass
        self._committed.clear()

    async def _poll(self) -> None:
        try:
            newest, kinds = await run_in_threadpool(self._source.touched_since, self._seen)
        except OpenimdsError as error:
            # The waiting requests read the store themselves later, and report the error.
            log.debug("change log not readable", reason=error.message)
            return
        if newest < self._seen:  # the database was replaced: all clients must list again
            kinds = frozenset(kind for waiter in self._waiters for kind in waiter.kinds)
        self._seen = newest
        for kind in kinds:
            self._latest[kind] = newest
        for waiter in self._waiters:
            if waiter.kinds & kinds:
                waiter.woken.set()


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)
