"""Instances asked for at the same time: read together, never from before the question, and no one's fault is another's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from tests.waiting import HANG_SECONDS

from openimds.imds.instance_cache import InstanceCache
from openimds.imds.instance_loader import AT_ONCE, BatchLoader
from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import Ec2Ids, Instance


class Source:
    """The first read waits at a gate; what each read asked for is noted."""

    def __init__(self) -> None:
        self.reads: list[frozenset[str]] = []
        self.began, self.gate = Event(), Event()
        self.broken: frozenset[str] = frozenset()
        self.away = False

    def read(self, instance_ids: Collection[str]) -> Mapping[str, Instance | None]:
        self.reads.append(frozenset(instance_ids))
        if len(self.reads) == 1:
            self.began.set()
            assert self.gate.wait(HANG_SECONDS)
        if self.away:
            raise StoreUnavailable("away")
        if self.broken & set(instance_ids):
            raise ValueError("a row that makes no sense")
        return {one: None if one == "nobody" else _instance(one) for one in instance_ids}


def _instance(instance_id: str) -> Instance:
    return Instance(
        id=instance_id, project_id="p", name="n", hostname="h", ec2_ids=Ec2Ids(instance_id=None), flavor_name="f"
    )


def run(source: Source, test: Callable[[BatchLoader], Awaitable[None]]) -> None:
    async def under_way() -> None:
        with ThreadPoolExecutor(1) as threads:
            async with asyncio.timeout(HANG_SECONDS):
                await test(BatchLoader(threads, source.read))

    asyncio.run(under_way())


async def _ask(together: BatchLoader, source: Source, ids: list[str]) -> list[asyncio.Task[Instance | None]]:
    """The first of them is being read, the others wait, when this returns."""
    asked = [asyncio.create_task(together.instance(ids[0]))]
    assert await asyncio.to_thread(source.began.wait, HANG_SECONDS)
    asked += [asyncio.create_task(together.instance(one)) for one in ids[1:]]
    await asyncio.sleep(0)
    return asked


def test_what_is_asked_during_a_read_is_read_together() -> None:
    source = Source()

    async def test(together: BatchLoader) -> None:
        asked = await _ask(together, source, ["a", "b", "c", "nobody"])
        source.gate.set()
        found = await asyncio.gather(*asked)
        assert [one.id if one else None for one in found] == ["a", "b", "c", None]
        assert source.reads == [{"a"}, {"b", "c", "nobody"}]

    run(source, test)


def test_who_asks_during_a_read_of_the_same_instance_gets_a_later_one() -> None:
    source = Source()

    async def test(together: BatchLoader) -> None:
        asked = await _ask(together, source, ["a", "a", "b", "b"])
        source.gate.set()
        found = await asyncio.gather(*asked)
        assert source.reads == [{"a"}, {"a", "b"}]
        assert found[0] is not found[1]
        assert found[2] is found[3]

    run(source, test)


def test_not_more_at_once_than_would_make_the_first_wait() -> None:
    source = Source()
    ids = [f"i{number}" for number in range(2 * AT_ONCE + 1)]

    async def test(together: BatchLoader) -> None:
        asked = await _ask(together, source, ids)
        source.gate.set()
        await asyncio.gather(*asked)
        assert [len(read) for read in source.reads] == [1, AT_ONCE, AT_ONCE]

    run(source, test)


def test_an_instance_that_cannot_be_told_takes_no_other_with_it() -> None:
    source = Source()
    source.broken = frozenset({"b"})

    async def test(together: BatchLoader) -> None:
        asked = await _ask(together, source, ["a", "b", "c"])
        source.gate.set()
        a, b, c = await asyncio.gather(*asked, return_exceptions=True)
        assert (a, c) == (_instance("a"), _instance("c"))
        assert isinstance(b, ValueError)

    run(source, test)


def test_a_store_that_is_away_is_said_to_all_that_wait_and_asked_again_later() -> None:
    source = Source()
    source.away = True

    async def test(together: BatchLoader) -> None:
        asked = await _ask(together, source, ["a", "b", "c"])
        source.gate.set()
        said = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in said] == [StoreUnavailable] * 3
        assert len(source.reads) == 2
        source.away = False
        assert await together.instance("b") == _instance("b")

    run(source, test)


def test_one_that_waits_no_longer_leaves_the_others_their_answer() -> None:
    source = Source()

    async def test(together: BatchLoader) -> None:
        asked = await _ask(together, source, ["a", "b", "b"])
        asked[1].cancel()
        source.gate.set()
        assert await asked[2] == _instance("b")
        with pytest.raises(asyncio.CancelledError):
            await asked[1]

    run(source, test)


def test_records_ask_for_instances_together_and_for_all_else_alone() -> None:
    source = Source()
    source.gate.set()

    async def test(together: BatchLoader) -> None:
        with ThreadPoolExecutor(1) as threads:
            records = InstanceCache(threads, instances=together.instance)
            assert await records.ask(("instance", "a"), lambda: _instance("by the question")) == _instance("a")
            assert await records.ask(("address", "a"), lambda: "by the question") == "by the question"
            assert source.reads == [{"a"}]

    run(source, test)
