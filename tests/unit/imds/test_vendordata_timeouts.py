"""The timeout of a query: a store that responds to other queries meanwhile gets more time than a silent store."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from tests.waiting import HANG_SECONDS

from openimds.imds import instance_cache as module
from openimds.imds.instance_cache import InstanceCache
from openimds.resources.errors import StoreUnavailable


async def _query(records: InstanceCache, gate: Event) -> object:
    try:
        return await records.load("a", lambda: gate.wait(HANG_SECONDS))
    finally:
        gate.set()


def test_query_waits_longer_for_a_store_that_responds_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.05)
    gate = Event()

    async def main() -> None:
        records = InstanceCache(threads)
        records._responded_at = math.inf  # the store has responded just now, at any time
        asyncio.get_running_loop().call_later(4 * 0.05, gate.set)
        assert await _query(records, gate) is True

    with ThreadPoolExecutor(1) as threads:
        asyncio.run(main())


def test_wait_for_a_store_that_responds_to_others_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(module, "MAX_WAIT_SECONDS", 0.1)

    async def main() -> None:
        records = InstanceCache(threads)
        records._responded_at = math.inf
        with pytest.raises(StoreUnavailable, match="did not respond within"):
            await _query(records, Event())

    with ThreadPoolExecutor(1) as threads:
        asyncio.run(main())
