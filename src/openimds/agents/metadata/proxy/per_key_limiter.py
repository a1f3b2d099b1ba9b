"""Limits the concurrent operations per key, such as the forwarded requests of one port.

The agent has a bounded number of connections to the metadata API, and a client can use a bounded share of them. Its
further requests wait in order, without delaying other clients. They are not rejected, because the burst of a boot is
legitimate and short, and a client retries a 503 only after a second. The limit of connections per client and the timeout
of the proxy bound the queue.
"""

from __future__ import annotations

import asyncio
from collections import deque

MAX_REQUESTS_PER_CLIENT = 16
"""The concurrent requests of one client. Eight such clients use all 128 connections."""


class PerKeyLimiter:
    """Belongs to the event loop."""

    def __init__(self, max_per_key: int = MAX_REQUESTS_PER_CLIENT) -> None:
        self._limit = max_per_key
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def try_take(self, key: str) -> bool:
        """Takes a slot if one is free. The caller must give it back."""
        taken = self._taken.get(key, 0)
        if taken >= self._limit:
            return False
        self._taken[key] = taken + 1
        return True

    async def take(self, key: str) -> None:
        """Waits for a slot, in order. The caller must give it back."""
        if self.try_take(key):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(key, deque())
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(key)  # the slot was assigned just before the cancellation
            else:
                self._forget(key, turn)
            raise

    def give_back(self, key: str) -> None:
        """Assigns the slot to the first waiting caller, or frees it."""
        queue = self._waiting.get(key)
        while queue:
            turn = queue.popleft()
            if not queue:
                del self._waiting[key]
            if not turn.done():
                turn.set_result(None)
                return
        left = self._taken[key] - 1
        if left:
            self._taken[key] = left
        else:
            del self._taken[key]

    def _forget(self, key: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(key)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[key]
