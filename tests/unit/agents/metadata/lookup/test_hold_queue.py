"""Whoever is held is judged again when news concern it, and not when they concern others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from tests.builders import port

from openimds.agents.metadata.lookup.hold_queue import HoldQueue, StaleResultError
from openimds.guest_identity.port_match import PortNotReady
from openimds.resources.network import Port

LONG_SECONDS = 300.0
"""Nothing here waits for it."""


class Cloud:
    """Ports by the MAC of who waits for them; counts how often it was looked."""

    def __init__(self) -> None:
        self.known: dict[str, Port] = {}
        self.looks: Counter[str] = Counter()

    def judge(self, mac: str) -> Callable[[], Awaitable[Port]]:
        async def judged() -> Port:
            self.looks[mac] += 1
            if mac not in self.known:
                raise PortNotReady(f"nothing is known of {mac}")
            return self.known[mac]

        return judged


async def _settled(cloud: Cloud) -> None:
    """The loop turns until nobody looks any more."""
    before = -1
    while before != cloud.looks.total():
        before = cloud.looks.total()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_storm_of_changes_makes_everybody_look_but_for_himself() -> None:
    """1,000 are held while 5,000 ports change: were all of them woken each time, that would be 5,000,000 looks."""

    cloud, holding = Cloud(), HoldQueue(LONG_SECONDS, LONG_SECONDS)
    macs = [f"mac-{number}" for number in range(1000)]
    waiting = [asyncio.create_task(holding.hold(cloud.judge(mac), {mac})) for mac in macs]
    await _settled(cloud)
    assert cloud.looks.total() == 1000
    for number in range(5000):
        mac = f"mac-{number}"
        cloud.known[mac] = port(mac)
        holding.wake({mac})
        await asyncio.sleep(0)
    assert [found.id for found in await asyncio.gather(*waiting)] == macs
    assert set(cloud.looks.values()) == {2}
    assert len(holding) == 0


async def test_one_of_several_things_it_is_known_by_is_enough() -> None:
    cloud, holding = Cloud(), HoldQueue(LONG_SECONDS, LONG_SECONDS)
    waiting = asyncio.create_task(holding.hold(cloud.judge("mac"), {"mac", "router"}))
    await _settled(cloud)
    holding.wake({"another"})
    await _settled(cloud)
    assert cloud.looks["mac"] == 1
    holding.wake({"another", "router"})
    await _settled(cloud)
    assert cloud.looks["mac"] == 2
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(holding) == 0


async def test_what_is_heard_while_it_is_judged_is_not_lost() -> None:
    cloud, holding = Cloud(), HoldQueue(LONG_SECONDS, LONG_SECONDS)
    judge = cloud.judge("mac")

    async def slow() -> Port:
        try:
            return await judge()
        finally:
            if cloud.looks["mac"] == 1:
                cloud.known["mac"] = port("p")
                holding.wake({"mac"})

    assert (await holding.hold(slow, {"mac"})).id == "p"
    assert cloud.looks["mac"] == 2


async def test_an_overtaken_judgement_is_made_again_at_once() -> None:
    results: list[Exception | Port] = [StaleResultError(), port("p")]

    async def judge() -> Port:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    assert (await HoldQueue(LONG_SECONDS, LONG_SECONDS).hold(judge, {"mac"})).id == "p"


async def test_without_news_it_is_judged_again_after_a_while() -> None:
    cloud, holding = Cloud(), HoldQueue(LONG_SECONDS, 0.001)
    waiting = asyncio.create_task(holding.hold(cloud.judge("mac"), {"mac"}))
    while cloud.looks["mac"] < 3:  # noqa: ASYNC110 - nothing tells of a look
        await asyncio.sleep(0.001)
    cloud.known["mac"] = port("p")
    assert (await waiting).id == "p"


def test_when_the_time_is_over_it_says_why() -> None:
    cloud = Cloud()
    with pytest.raises(PortNotReady, match=r"held for 0\.01 s: nothing is known of mac"):
        asyncio.run(HoldQueue(0.01).hold(cloud.judge("mac"), {"mac"}))
