"""The slots of one client: taken, waited for in order, given back, and never lost."""

from __future__ import annotations

import asyncio

import pytest

from openimds.agents.metadata.proxy.per_key_limiter import PerKeyLimiter


async def test_waiting_requests_get_slots_in_order_and_keys_do_not_wait_for_each_other() -> None:
    limiter = PerKeyLimiter(max_per_key=1)
    assert limiter.try_take("a")
    assert not limiter.try_take("a")
    assert limiter.try_take("b")
    order: list[int] = []

    async def wait(number: int) -> None:
        await limiter.take("a")
        order.append(number)

    tasks = [asyncio.ensure_future(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    for _ in tasks:
        limiter.give_back("a")
        assert not limiter.try_take("a"), "a slot that a request waits for is not free"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == [0, 1, 2]
    limiter.give_back("a")
    assert limiter.try_take("a")


@pytest.mark.parametrize("is_given_first", [False, True])
async def test_a_cancelled_waiting_request_does_not_lose_a_slot(is_given_first: bool) -> None:
    limiter = PerKeyLimiter(max_per_key=1)
    assert limiter.try_take("a")
    waiting = asyncio.ensure_future(limiter.take("a"))
    await asyncio.sleep(0)
    if is_given_first:
        limiter.give_back("a")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    if not is_given_first:
        limiter.give_back("a")
    assert limiter.try_take("a")
