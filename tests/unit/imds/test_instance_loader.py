"""The batch loader: concurrent queries share a read that starts after them, and the error of one instance affects no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from tests.waiting import HANG_SECONDS

from openimds.imds.instance_cache import InstanceCache
from openimds.imds.instance_loader import BATCH_SIZE, BatchLoader
from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import Ec2Ids, Instance


class Source:
    """A fake store. The first read waits for the gate, and every read is recorded."""

    def __init__(self) -> None:
        self.reads: list[frozenset[str]] = []
        self.started, self.gate = Event(), Event()
        self.broken: frozenset[str] = frozenset()
        self.unavailable = False

    def read(self, instance_ids: Collection[str]) -> Mapping[str, Instance | None]:
        self.reads.append(frozenset(instance_ids))
        if len(self.reads) == 1:
            self.started.set()
            assert self.gate.wait(HANG_SECONDS)
        if self.unavailable:
            raise StoreUnavailable("unavailable")
        if self.broken & set(instance_ids):
            raise ValueError("invalid row")
        return {each: None if each == "unknown" else _instance(each) for each in instance_ids}


def _instance(instance_id: str) -> Instance:
    return Instance(
        id=instance_id, project_id="p", name="n", hostname="h", ec2_ids=Ec2Ids(instance_id=None), flavor_name="f"
    )


def run(source: Source, test: Callable[[BatchLoader], Awaitable[None]]) -> None:
    async def main() -> None:
        with ThreadPoolExecutor(1) as threads:
            async with asyncio.timeout(HANG_SECONDS):
                await test(BatchLoader(threads, source.read))

    asyncio.run(main())


async def _start_queries(loader: BatchLoader, source: Source, ids: list[str]) -> list[asyncio.Task[Instance | None]]:
    """Starts one query per id. The store reads the first, and the others wait."""
    queries = [asyncio.create_task(loader.instance(ids[0]))]
    assert await asyncio.to_thread(source.started.wait, HANG_SECONDS)
    queries += [asyncio.create_task(loader.instance(each)) for each in ids[1:]]
    await asyncio.sleep(0)
    return queries


def test_queries_during_a_read_share_the_next_read() -> None:
    source = Source()

    async def test(loader: BatchLoader) -> None:
        queries = await _start_queries(loader, source, ["a", "b", "c", "unknown"])
        source.gate.set()
        found = await asyncio.gather(*queries)
        assert [each.id if each else None for each in found] == ["a", "b", "c", None]
        assert source.reads == [{"a"}, {"b", "c", "unknown"}]

    run(source, test)


def test_query_during_a_read_of_the_same_instance_gets_a_later_read() -> None:
    source = Source()

    async def test(loader: BatchLoader) -> None:
        queries = await _start_queries(loader, source, ["a", "a", "b", "b"])
        source.gate.set()
        found = await asyncio.gather(*queries)
        assert source.reads == [{"a"}, {"a", "b"}]
        assert found[0] is not found[1]
        assert found[2] is found[3]

    run(source, test)


def test_size_of_a_read_is_limited() -> None:
    source = Source()
    ids = [f"i{number}" for number in range(2 * BATCH_SIZE + 1)]

    async def test(loader: BatchLoader) -> None:
        queries = await _start_queries(loader, source, ids)
        source.gate.set()
        await asyncio.gather(*queries)
        assert [len(read) for read in source.reads] == [1, BATCH_SIZE, BATCH_SIZE]

    run(source, test)


def test_error_of_one_instance_does_not_affect_others() -> None:
    source = Source()
    source.broken = frozenset({"b"})

    async def test(loader: BatchLoader) -> None:
        queries = await _start_queries(loader, source, ["a", "b", "c"])
        source.gate.set()
        a, b, c = await asyncio.gather(*queries, return_exceptions=True)
        assert (a, c) == (_instance("a"), _instance("c"))
        assert isinstance(b, ValueError)

    run(source, test)


def test_store_error_reaches_all_queries_and_the_next_query_reads_again() -> None:
    source = Source()
    source.unavailable = True

    async def test(loader: BatchLoader) -> None:
        queries = await _start_queries(loader, source, ["a", "b", "c"])
        source.gate.set()
        errors = await asyncio.gather(*queries, return_exceptions=True)
        assert [type(each) for each in errors] == [StoreUnavailable] * 3
        assert len(source.reads) == 2
        source.unavailable = False
        assert await loader.instance("b") == _instance("b")

    run(source, test)


def test_cancelled_query_does_not_cancel_others() -> None:
    source = Source()

    async def test(loader: BatchLoader) -> None:
        queries = await _start_queries(loader, source, ["a", "b", "b"])
        queries[1].cancel()
        source.gate.set()
        assert await queries[2] == _instance("b")
        with pytest.raises(asyncio.CancelledError):
            await queries[1]

    run(source, test)


def test_instance_cache_uses_the_loader_only_for_instances() -> None:
    source = Source()
    source.gate.set()

    async def test(loader: BatchLoader) -> None:
        with ThreadPoolExecutor(1) as threads:
            records = InstanceCache(threads, instances=loader.instance)
            assert await records.load(("instance", "a"), lambda: _instance("of the query")) == _instance("a")
            assert await records.load(("address", "a"), lambda: "of the query") == "of the query"
            assert source.reads == [{"a"}]

    run(source, test)
