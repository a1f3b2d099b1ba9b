"""Holds requests whose port is not ready, until a change concerns them or the hold time ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from openimds.guest_identity.port_match import PortLookupRefused, PortNotReady
from openimds.resources.network import Port

RETRY_SECONDS = 1.0
"""Time after which a held request is decided again without a change, because the control API may respond by now."""


class StaleResultError(Exception):
    """A change happened during the query, so that its result may be outdated."""


@dataclass(slots=True, eq=False)
class _Waiter:
    keys: frozenset[Hashable]
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class HoldQueue:
    """Belongs to the event loop. A change wakes only the requests that it can concern, because in a boot storm a thousand
    requests wait while thousands of ports change.
    """

    def __init__(self, hold_seconds: float, retry_seconds: float = RETRY_SECONDS) -> None:
        self._hold_seconds = hold_seconds
        self._retry_seconds = retry_seconds
        self._waiters: dict[Hashable, set[_Waiter]] = {}

    def __len__(self) -> int:
        """The number of keys that held requests wait for."""
        return len(self._waiters)

    def wake(self, touched: AbstractSet[Hashable]) -> None:
        """Wakes the requests with one of these keys."""
        for key in self._waiters.keys() & touched:
            for waiter in self._waiters[key]:
                waiter.woken.set()

    def wake_all(self) -> None:
        """Wakes every request, because a change names no keys."""
        self.wake(frozenset(self._waiters))

    async def hold(self, decide: Callable[[], Awaitable[Port]], keys: Iterable[Hashable]) -> Port:
        """Returns or raises the result of `decide`. Raises its PortNotReady only after the hold time.

        PortLookupRefused is raised immediately.

        `keys`: all keys of changes that can change the result.
        """
        reasons: list[PortNotReady] = []
        waiter = _Waiter(frozenset(keys))
        self._add(waiter)
        try:
            async with asyncio.timeout(self._hold_seconds) as deadline:
                return await self._until_ready(decide, waiter, reasons)
        except TimeoutError:
            if not deadline.expired():
                raise
            reason = f": {reasons[-1]}" if reasons else ""
            raise PortNotReady(f"held for {self._hold_seconds:g} s{reason}") from None
        finally:
            self._remove(waiter)

    def _add(self, waiter: _Waiter) -> None:
        for key in waiter.keys:
            self._waiters.setdefault(key, set()).add(waiter)

    def _remove(self, waiter: _Waiter) -> None:
        for key in waiter.keys:
            others = self._waiters[key]
            others.discard(waiter)
            if not others:
                del self._waiters[key]

    async def _until_ready(
        self, decide: Callable[[], Awaitable[Port]], waiter: _Waiter, reasons: list[PortNotReady]
    ) -> Port:
        while True:
            waiter.woken.clear()  # before the decision: a change during it may change the result
            try:
                return await decide()
            except StaleResultError:
                continue
            except PortLookupRefused:
                raise
            except PortNotReady as reason:
                reasons[:] = [reason]
                await self._wait(waiter.woken)

    async def _wait(self, woken: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._retry_seconds) as deadline:
                await woken.wait()
        except TimeoutError:
            if not deadline.expired():
                raise
