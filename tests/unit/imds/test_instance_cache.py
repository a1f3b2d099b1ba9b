from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from tests.waiting import HANG_SECONDS

from openimds.imds import instance_cache as module
from openimds.imds.document_cache import RenderedDocument
from openimds.imds.instance_cache import InstanceCache
from openimds.metadata.outcome import Document
from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import ChangeSet, Nic


async def test_least_recently_used_record_is_dropped(threads) -> None:
    records = InstanceCache(threads, max_records=2)
    queries: list[str] = []

    def query(key: str) -> str:
        queries.append(key)
        return key

    async def load(key: str) -> str:
        return await records.load(key, lambda: query(key))

    for key in ("a", "b", "a", "c", "a", "b"):
        assert await load(key) == key
    assert queries == ["a", "b", "c", "b"]  # the most recently used record stays longest


async def test_change_during_a_query_is_not_missed(threads) -> None:
    records = InstanceCache(threads)
    asked, gate = threading.Event(), threading.Event()

    def slow() -> str:
        asked.set()
        assert gate.wait(HANG_SECONDS)
        return "old"

    first = asyncio.create_task(records.record(("instance", "i"), slow))
    await asyncio.to_thread(asked.wait, 10)
    second = asyncio.create_task(records.load(("instance", "i"), slow))
    await asyncio.sleep(0)
    records.forget(ChangeSet(revision=2, port_ids=frozenset({"p"})))  # nobody knows yet whose port it is
    assert await records.load(("instance", "i"), lambda: "new") == "new"
    gate.set()
    assert (await first).value == await second == "old"
    assert not (await first).is_valid
    assert await records.load(("instance", "i"), lambda: "newer") == "new"


@pytest.mark.parametrize(
    ("touched", "is_dropped"),
    [
        (ChangeSet(revision=2), False),
        (ChangeSet(revision=2, everything=True), True),
        (ChangeSet(revision=2, instance_ids=frozenset({"other"}), port_ids=frozenset({"other"})), False),
        (ChangeSet(revision=2, instance_ids=frozenset({"i"})), True),
        (ChangeSet(revision=2, port_ids=frozenset({"p2"})), True),
        (ChangeSet(revision=2, network_ids=frozenset({"n1"})), True),
        (ChangeSet(revision=2, network_ids=frozenset({"n2"})), False),
    ],
)
async def test_change_drops_dependent_records(instances, threads, touched: ChangeSet, is_dropped: bool) -> None:
    nics = tuple(
        Nic(port_id=port, mac_address=None, vif_type=None, device_name=None, network_id="n1") for port in ("p1", "p2")
    )
    instance = replace(next(iter(instances.instances.values())), id="i", nics=nics)

    records = InstanceCache(threads)
    record = await records.record(("instance", "i"), lambda: instance)
    address = await records.record(("address", "10.0.0.5"), lambda: ("i",))
    records.forget(touched)
    assert record.is_valid is not is_dropped
    assert address.is_valid is touched.is_empty
    assert len(records) == record.is_valid + address.is_valid


async def test_oldest_documents_are_dropped(threads) -> None:
    records = InstanceCache(threads, max_document_bytes=250)
    kept = [await records.record(name, lambda: None) for name in "abc"]
    for record in kept:
        records.cache_document(record, "x", RenderedDocument(Document(200, "text/plain", bytes(100))), 100)
    assert [len(record.documents) for record in kept] == [0, 0, 1]
    records.forget(ChangeSet(revision=1, everything=True))
    records.cache_document(kept[0], "x", RenderedDocument(Document(200, "text/plain", bytes(100))), 100)
    assert not kept[0].documents


async def test_late_result_of_a_silent_store_is_cached(threads, monkeypatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.01)
    gate = threading.Event()

    records = InstanceCache(threads)
    with pytest.raises(StoreUnavailable):
        await records.load("a", lambda: gate.wait(HANG_SECONDS))
    monkeypatch.setattr(module, "SILENCE_SECONDS", HANG_SECONDS)
    gate.set()
    assert await records.load("a", lambda: False) is True  # the late result of the first query


async def test_failed_query_is_repeated(threads) -> None:
    def fail() -> None:
        raise StoreUnavailable("away")

    records = InstanceCache(threads)
    with pytest.raises(StoreUnavailable):
        await records.load("a", fail)
    assert await records.load("a", lambda: 1) == 1
