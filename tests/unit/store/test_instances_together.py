"""Instances asked for at the same time: read together, never from before the question, and no one's fault is another's."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from time import monotonic, sleep

import pytest

from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import Ec2Ids, Instance
from openimds.store.engine import Store
from openimds.store.instances_together import InstancesTogether

THREADS = 8
PATIENCE_SECONDS = 30.0


class Gated(InstancesTogether):
    """The first read waits at a gate; what each read asked for is noted."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.reads: list[frozenset[str]] = []
        self.began, self.gate = Event(), Event()
        self.broken: frozenset[str] = frozenset()
        self.away = False

    def instances(self, instance_ids: Collection[str]) -> tuple[int, dict[str, Instance | None]]:
        self.reads.append(frozenset(instance_ids))
        if len(self.reads) == 1:
            self.began.set()
            assert self.gate.wait(PATIENCE_SECONDS)
        if self.away:
            raise StoreUnavailable("away")
        if self.broken & set(instance_ids):
            raise ValueError("a row that makes no sense")
        return 1, {one: None if one == "nobody" else _instance(one) for one in instance_ids}

    def waits_for(self, ids: set[str]) -> None:
        deadline = monotonic() + PATIENCE_SECONDS
        while set(self._waiting) != ids:
            assert monotonic() < deadline, self._waiting
            sleep(0.001)


def _instance(instance_id: str) -> Instance:
    return Instance(
        id=instance_id, project_id="p", name="n", hostname="h", ec2_ids=Ec2Ids(instance_id=None), flavor_name="f"
    )


def _ask(store: Gated, threads: ThreadPoolExecutor, ids: list[str]) -> list[Future[Instance | None]]:
    """The first of them is being read, the others wait, when this returns."""
    asked = [threads.submit(store.instance, ids[0])]
    assert store.began.wait(PATIENCE_SECONDS)
    asked += [threads.submit(store.instance, one) for one in ids[1:]]
    store.waits_for(set(ids[1:]))
    return asked


def test_what_is_asked_during_a_read_is_read_together(store: Store) -> None:
    gated = Gated(store)
    with ThreadPoolExecutor(THREADS) as threads:
        asked = _ask(gated, threads, ["a", "b", "c", "nobody"])
        gated.gate.set()
        found = [future.result(PATIENCE_SECONDS) for future in asked]
    assert [one.id if one else None for one in found] == ["a", "b", "c", None]
    assert gated.reads == [{"a"}, {"b", "c", "nobody"}]


def test_who_asks_during_a_read_of_the_same_instance_gets_a_later_one(store: Store) -> None:
    gated = Gated(store)
    with ThreadPoolExecutor(THREADS) as threads:
        asked = _ask(gated, threads, ["a", "a", "b"])
        gated.gate.set()
        found = [future.result(PATIENCE_SECONDS) for future in asked]
    assert gated.reads == [{"a"}, {"a", "b"}]
    assert found[0] is not found[1]


def test_an_instance_that_cannot_be_told_takes_no_other_with_it(store: Store) -> None:
    gated = Gated(store)
    gated.broken = frozenset({"b"})
    with ThreadPoolExecutor(THREADS) as threads:
        asked = _ask(gated, threads, ["a", "b", "c"])
        gated.gate.set()
        with pytest.raises(ValueError, match="no sense"):
            asked[1].result(PATIENCE_SECONDS)
        assert [asked[place].result(PATIENCE_SECONDS) for place in (0, 2)] == [_instance("a"), _instance("c")]


def test_a_store_that_is_away_is_said_to_all_that_wait_and_asked_again_later(store: Store) -> None:
    gated = Gated(store)
    gated.away = True
    with ThreadPoolExecutor(THREADS) as threads:
        asked = _ask(gated, threads, ["a", "b", "c"])
        gated.gate.set()
        for future in asked:
            with pytest.raises(StoreUnavailable):
                future.result(PATIENCE_SECONDS)
        assert len(gated.reads) == 2
        gated.away = False
        assert gated.instance("b") == _instance("b")
