"""How long a request waits for the store: not for a silent one, longer for one that answers others meanwhile."""

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


async def _asked(records: InstanceCache, gate: Event) -> object:
    try:
        return await records.ask("a", lambda: gate.wait(HANG_SECONDS))
    finally:
        gate.set()


def test_a_store_that_answers_others_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.05)
    gate = Event()

    async def test() -> None:
        records = InstanceCache(threads)
        records._responded_at = math.inf  # just now, whenever one looks
        asyncio.get_running_loop().call_later(4 * 0.05, gate.set)
        assert await _asked(records, gate) is True

    with ThreadPoolExecutor(1) as threads:
        asyncio.run(test())


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(module, "MAX_WAIT_SECONDS", 0.1)

    async def test() -> None:
        records = InstanceCache(threads)
        records._responded_at = math.inf
        with pytest.raises(StoreUnavailable, match="did not answer within"):
            await _asked(records, Event())

    with ThreadPoolExecutor(1) as threads:
        asyncio.run(test())
