"""Not yet is never no: who cannot be told yet waits for news, for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from openimds.identity.binding import NotKnownYet
from openimds.resources.network import Port

AGAIN_SECONDS = 1.0
"""After this time it is judged again without news: the control API may answer by now."""


class OvertakenError(Exception):
    """Something changed while the question was under way: what it found may be old already."""


class Holding:
    """Belongs to the event loop."""

    def __init__(self, hold_seconds: float) -> None:
        self._hold_seconds = hold_seconds
        self._news = asyncio.Event()

    def heard(self) -> None:
        """There are news: everybody who waits is judged again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def held(self, judge: Callable[[], Awaitable[Port]]) -> Port:
        """What `judge` returns or raises, but NotKnownYet only when it still says so after all the time there is."""
        reasons: list[NotKnownYet] = []
        try:
            async with asyncio.timeout(self._hold_seconds) as patience:
                return await self._told(judge, reasons)
        except TimeoutError:
            if not patience.expired():
                raise
            reason = f": {reasons[-1]}" if reasons else ""
            raise NotKnownYet(f"held for {self._hold_seconds:g} s{reason}") from None

    async def _told(self, judge: Callable[[], Awaitable[Port]], reasons: list[NotKnownYet]) -> Port:
        while True:
            news = self._news
            try:
                return await judge()
            except OvertakenError:
                continue
            except NotKnownYet as reason:
                reasons[:] = [reason]
                await _some_time(news)


async def _some_time(news: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(AGAIN_SECONDS) as patience:
            await news.wait()
    except TimeoutError:
        if not patience.expired():
            raise
