"""Not yet is never no: who cannot be told yet waits for news, for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from openimds.guest_identity.port_match import PortNotReady
from openimds.resources.network import Port

AGAIN_SECONDS = 1.0
"""After this time it is judged again without news: the control API may answer by now."""


class StaleResultError(Exception):
    """Something changed while the question was under way: what it found may be old already."""


@dataclass(slots=True, eq=False)
class _Waiter:
    by: frozenset[Hashable]
    news: asyncio.Event = field(default_factory=asyncio.Event)


class HoldQueue:
    """Belongs to the event loop. In a boot storm a thousand wait while thousands of ports change: news wake only those
    whom they can concern, and what was not seen to concern somebody is found out after `again_seconds` all the same.
    """

    def __init__(self, hold_seconds: float, again_seconds: float = AGAIN_SECONDS) -> None:
        self._hold_seconds = hold_seconds
        self._again_seconds = again_seconds
        self._waiting: dict[Hashable, set[_Waiter]] = {}

    @property
    def holds(self) -> bool:
        """Does anybody wait?"""
        return bool(self._waiting)

    def heard(self, touched: AbstractSet[Hashable]) -> None:
        """There are news: who is known by one of these is judged again."""
        for one in self._waiting.keys() & touched:
            for waiter in self._waiting[one]:
                waiter.news.set()

    async def held(self, judge: Callable[[], Awaitable[Port]], by: Iterable[Hashable]) -> Port:
        """What `judge` returns or raises, but NotKnownYet only when it still says so after all the time there is.

        `by`: in the words that `heard` is told, all that a change must touch to change the judgement.
        """
        reasons: list[PortNotReady] = []
        waiter = _Waiter(frozenset(by))
        self._enter(waiter)
        try:
            async with asyncio.timeout(self._hold_seconds) as patience:
                return await self._told(judge, waiter, reasons)
        except TimeoutError:
            if not patience.expired():
                raise
            reason = f": {reasons[-1]}" if reasons else ""
            raise PortNotReady(f"held for {self._hold_seconds:g} s{reason}") from None
        finally:
            self._leave(waiter)

    def _enter(self, waiter: _Waiter) -> None:
        for one in waiter.by:
            self._waiting.setdefault(one, set()).add(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        for one in waiter.by:
            others = self._waiting[one]
            others.discard(waiter)
            if not others:
                del self._waiting[one]

    async def _told(self, judge: Callable[[], Awaitable[Port]], waiter: _Waiter, reasons: list[PortNotReady]) -> Port:
        while True:
            waiter.news.clear()  # before it is judged: what is heard meanwhile may change the judgement
            try:
                return await judge()
            except StaleResultError:
                continue
            except PortNotReady as reason:
                reasons[:] = [reason]
                await self._some_time(waiter.news)

    async def _some_time(self, news: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._again_seconds) as patience:
                await news.wait()
        except TimeoutError:
            if not patience.expired():
                raise
