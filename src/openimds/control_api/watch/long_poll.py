"""Waking many long polls with one eye on the store.

While anybody waits, one task of the event loop asks the store every POLL_SECONDS, and at once when this process commits,
which kinds have changed; only those who wait for one of these kinds are woken. Fifty agents that wait hold no thread
and no connection.
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
"""Another process' commit is heard of within this time; the promise is 200 ms."""


class WatchSource(Protocol):
    """What is watched."""

    def touched_since(self, revision: int) -> tuple[int, frozenset[str]]:
        """(newest revision, the kinds that changed after `revision`)."""
        ...

    def on_commit(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Call `listener` on any thread after each commit of this process; returns what ends that."""
        ...


@dataclass(eq=False, slots=True)
class _Waiter:
    kinds: frozenset[str]
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class ChangeNotifier:
    """Of one event loop; all methods but `close` are called on it."""

    def __init__(self, source: WatchSource) -> None:
        self._source = source
        self._waiters: set[_Waiter] = set()
        self._committed = asyncio.Event()
        self._seen = 0
        self._latest: dict[str, int] = {}
        """Kind → a revision at which it had changed, no older than its newest change that has been seen."""
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_closed = False

    def close(self) -> None:
        """On any thread: wake everybody now, and let nobody wait from now on."""
        self.is_closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            waiter.woken.set()

    async def wait(self, kinds: frozenset[str], after: int, timeout_seconds: float) -> bool:
        """Sleep until something of these kinds may have changed after `after` (True), or the time is over (False)."""
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
        # The first who waits knows everything up to its revision; nobody else waits for older news.
        self._seen = revision
        self._latest = {}
        self._committed = asyncio.Event()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        stop = self._source.on_commit(lambda _revision: _set(loop, self._committed))
        try:
            while True:
                await self._next_look()
                if not self._waiters:
                    return
                await self._look()
        finally:
            stop()

    async def _next_look(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._committed.wait()
        except TimeoutError:
            pass
        self._committed.clear()

    async def _look(self) -> None:
        try:
            newest, kinds = await run_in_threadpool(self._source.touched_since, self._seen)
        except OpenimdsError as error:
            log.debug("the store cannot be watched now", reason=error.message)  # whoever asks is told
            return
        if newest < self._seen:  # another database in its place: everybody has to list again
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
