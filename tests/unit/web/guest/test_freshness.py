from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from openimds.resources.errors import StoreUnavailable
from openimds.web.guest import freshness
from openimds.web.guest.freshness import Freshness


class SlowStore:
    """Each look waits until it is let go."""

    def __init__(self) -> None:
        self.number = 1
        self.looks = 0
        self.gate = threading.Event()

    def revision(self) -> int:
        self.looks += 1
        seen = self.number
        assert self.gate.wait(10)
        return seen


def test_requests_that_come_during_a_look_share_the_next(threads: ThreadPoolExecutor) -> None:
    store = SlowStore()

    async def scene() -> None:
        fresh = Freshness(store.revision, threads)
        first = asyncio.create_task(fresh.revision())
        while not store.looks:  # noqa: ASYNC110 - it looks in a thread
            await asyncio.sleep(0)
        store.number = 2  # committed after the first look began
        later = [asyncio.create_task(fresh.revision()) for _ in range(100)]
        await asyncio.sleep(0)
        store.gate.set()
        assert await first == 1
        assert await asyncio.gather(*later) == [2] * 100
        assert store.looks == 2

    asyncio.run(scene())


def test_a_store_that_does_not_answer_in_time(threads: ThreadPoolExecutor, monkeypatch) -> None:
    monkeypatch.setattr(freshness, "PATIENCE_SECONDS", 0.01)
    store = SlowStore()

    async def scene() -> None:
        fresh = Freshness(store.revision, threads)
        assert await fresh.revision() is None
        assert fresh.store_is_away
        store.gate.set()
        while await fresh.revision() is None:  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0)
        assert not fresh.store_is_away

    asyncio.run(scene())


def test_a_store_that_says_no(threads: ThreadPoolExecutor) -> None:
    def refuse() -> int:
        raise StoreUnavailable("full")

    async def scene() -> None:
        fresh = Freshness(refuse, threads)
        assert [await fresh.revision() for _ in range(3)] == [None] * 3

    asyncio.run(scene())
