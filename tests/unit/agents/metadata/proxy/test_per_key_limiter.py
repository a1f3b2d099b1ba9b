"""One guest's share: taken, waited for in order, given back, never lost."""

from __future__ import annotations

import asyncio

import pytest

from openimds.agents.metadata.proxy.per_key_limiter import PerKeyLimiter


async def test_who_waits_comes_in_order_and_a_guest_waits_for_nobody_else() -> None:
    shares = PerKeyLimiter(max_per_key=1)
    assert shares.try_take("a")
    assert not shares.try_take("a")
    assert shares.try_take("b")
    came: list[int] = []

    async def wait(number: int) -> None:
        await shares.take("a")
        came.append(number)

    tasks = [asyncio.ensure_future(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    for _ in tasks:
        shares.give_back("a")
        assert not shares.try_take("a"), "a place that was waited for is not free"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert came == [0, 1, 2]
    shares.give_back("a")
    assert shares.try_take("a")


@pytest.mark.parametrize("given_first", [False, True])
async def test_who_goes_while_it_waits_takes_no_place_with_it(given_first: bool) -> None:
    shares = PerKeyLimiter(max_per_key=1)
    assert shares.try_take("a")
    waiting = asyncio.ensure_future(shares.take("a"))
    await asyncio.sleep(0)
    if given_first:
        shares.give_back("a")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    if not given_first:
        shares.give_back("a")
    assert shares.try_take("a")
