"""One guest's share of the way to the metadata API.

The agent has so many connections to the API and no more. A guest that asks two hundred things at once gets its share of
them; what else it asks waits for its own earlier requests, in order, and nobody else's requests wait for it. They wait
instead of being refused because a boot's burst is honest and soon over, and a 503 would cost it a second; what may wait
is bounded by the namespace proxy's connections of one guest, and for how long by its time-out.
"""

from __future__ import annotations

import asyncio
from collections import deque

OF_ONE_GUEST = 16
"""Requests of one guest on their way at once: of 128 connections, so that it takes eight such guests to fill them."""


class PerKeyLimiter:
    """Belongs to one event loop. A guest is its port's id: IPv4 and IPv6 together."""

    def __init__(self, of_one_guest: int = OF_ONE_GUEST) -> None:
        self._limit = of_one_guest
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def try_take(self, guest: str) -> bool:
        """Take a place if one is free and nobody waits for it. Whoever took gives back."""
        taken = self._taken.get(guest, 0)
        if taken >= self._limit:
            return False
        self._taken[guest] = taken + 1
        return True

    async def take(self, guest: str) -> None:
        """Wait for a place, behind those who wait already."""
        if self.try_take(guest):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(guest, deque())
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(guest)  # the place came at the moment that its taker went
            else:
                self._forget(guest, turn)
            raise

    def give_back(self, guest: str) -> None:
        """The place goes to who waits longest; with nobody waiting it is free."""
        queue = self._waiting.get(guest)
        while queue:
            turn = queue.popleft()
            if not queue:
                del self._waiting[guest]
            if not turn.done():
                turn.set_result(None)
                return
        left = self._taken[guest] - 1
        if left:
            self._taken[guest] = left
        else:
            del self._taken[guest]

    def _forget(self, guest: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(guest)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[guest]
