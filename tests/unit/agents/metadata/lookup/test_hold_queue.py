"""A held request is decided again after a change of its own keys, and not after other changes."""

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
"""No test waits that long."""


class Cloud:
    """Ports by the MAC of the waiting client. Counts the decisions of each client."""

    def __init__(self) -> None:
        self.ports: dict[str, Port] = {}
        self.decisions: Counter[str] = Counter()

    def decide_for(self, mac: str) -> Callable[[], Awaitable[Port]]:
        async def decide() -> Port:
            self.decisions[mac] += 1
            if mac not in self.ports:
                raise PortNotReady(f"no port has the MAC {mac}")
            return self.ports[mac]

        return decide


async def _settled(cloud: Cloud) -> None:
    """Runs the loop until no further decision is made."""
    before = -1
    while before != cloud.decisions.total():
        before = cloud.decisions.total()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_each_held_request_is_decided_again_only_for_its_own_change() -> None:
    """1,000 requests are held while 5,000 ports change. To wake all of them each time would cost 5,000,000 decisions."""
    cloud, queue = Cloud(), HoldQueue(LONG_SECONDS, LONG_SECONDS)
    macs = [f"mac-{number}" for number in range(1000)]
    waiting = [asyncio.create_task(queue.hold(cloud.decide_for(mac), {mac})) for mac in macs]
    await _settled(cloud)
    assert cloud.decisions.total() == 1000
    for number in range(5000):
        mac = f"mac-{number}"
        cloud.ports[mac] = port(mac)
        queue.wake({mac})
        await asyncio.sleep(0)
    assert [found.id for found in await asyncio.gather(*waiting)] == macs
    assert set(cloud.decisions.values()) == {2}
    assert len(queue) == 0


async def test_a_change_of_one_of_several_keys_is_sufficient() -> None:
    cloud, queue = Cloud(), HoldQueue(LONG_SECONDS, LONG_SECONDS)
    waiting = asyncio.create_task(queue.hold(cloud.decide_for("mac"), {"mac", "router"}))
    await _settled(cloud)
    queue.wake({"another"})
    await _settled(cloud)
    assert cloud.decisions["mac"] == 1
    queue.wake({"another", "router"})
    await _settled(cloud)
    assert cloud.decisions["mac"] == 2
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(queue) == 0


async def test_a_change_during_a_decision_is_not_lost() -> None:
    cloud, queue = Cloud(), HoldQueue(LONG_SECONDS, LONG_SECONDS)
    decide = cloud.decide_for("mac")

    async def slow() -> Port:
        try:
            return await decide()
        finally:
            if cloud.decisions["mac"] == 1:
                cloud.ports["mac"] = port("p")
                queue.wake({"mac"})

    assert (await queue.hold(slow, {"mac"})).id == "p"
    assert cloud.decisions["mac"] == 2


async def test_a_stale_decision_is_repeated_immediately() -> None:
    results: list[Exception | Port] = [StaleResultError(), port("p")]

    async def decide() -> Port:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    assert (await HoldQueue(LONG_SECONDS, LONG_SECONDS).hold(decide, {"mac"})).id == "p"


async def test_without_a_change_the_decision_is_repeated_after_the_retry_time() -> None:
    cloud, queue = Cloud(), HoldQueue(LONG_SECONDS, 0.001)
    waiting = asyncio.create_task(queue.hold(cloud.decide_for("mac"), {"mac"}))
    while cloud.decisions["mac"] < 3:  # noqa: ASYNC110 - a decision sends no event
        await asyncio.sleep(0.001)
    cloud.ports["mac"] = port("p")
    assert (await waiting).id == "p"


def test_the_error_after_the_hold_time_has_the_reason() -> None:
    cloud = Cloud()
    with pytest.raises(PortNotReady, match=r"held for 0\.01 s: no port has the MAC mac"):
        asyncio.run(HoldQueue(0.01).hold(cloud.decide_for("mac"), {"mac"}))
