"""Batches and prefetches of instance records."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import pytest
from tests.builders import port
from tests.waiting import HANG_SECONDS, until

from openimds.client.instance_records import MAX_BATCH_SIZE, BatchResult, Prefetcher, RecordBatcher
from openimds.client.mirror import CloudView
from openimds.resources.errors import NotOffered, StoreUnavailable
from openimds.resources.instance import ChangeSet, Ec2Ids, Instance, Nic


def instance(instance_id: str, name: str = "vm") -> Instance:
    nic = Nic(port_id=f"port-{instance_id}", mac_address=None, vif_type=None, device_name=None, network_id="net")
    ids = Ec2Ids(instance_id="i-00000001")
    return Instance(
        id=instance_id, project_id="p", name=name, hostname="vm", ec2_ids=ids, flavor_name="m1", nics=(nic,)
    )


class Upstream:
    """Responds at `revision`. Requests wait while `gate` is closed."""

    def __init__(self) -> None:
        self.revision = 5
        self.name = "vm"
        self.malformed: set[str] = set()
        self.error: Exception | None = None
        self.requests: list[list[str]] = []
        self.received = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, ids: Sequence[str]) -> BatchResult:
        self.requests.append(list(ids))
        revision, name = self.revision, self.name
        self.received.release()
        assert self.gate.wait(HANG_SECONDS)
        if self.error:
            raise self.error
        return BatchResult(
            revision, {i: None if i == "gone" else instance(i, name) for i in ids if i not in self.malformed}
        )


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def batcher(upstream: Upstream) -> Iterator[RecordBatcher]:
    created = RecordBatcher(upstream.fetch)
    created.start()
    yield created
    upstream.gate.set()
    created.close()


def result(future: Future[Instance | None]) -> Instance | None:
    return future.result(HANG_SECONDS)


def test_concurrent_loads_share_requests(upstream: Upstream, batcher: RecordBatcher) -> None:
    received = {f"vm-{number}": [] for number in range(1000)}  # type: dict[str, list[Future[Instance | None]]]
    for _ in range(3):
        for instance_id, futures in received.items():
            futures.append(batcher.load(instance_id))
    for instance_id, futures in received.items():
        assert [result(future) for future in futures] == [instance(instance_id)] * 3
    ids = [instance_id for request in upstream.requests for instance_id in request]
    assert max(map(len, upstream.requests)) <= MAX_BATCH_SIZE
    assert set(ids) == set(received)


def test_load_of_a_pending_instance_shares_the_response(upstream: Upstream, batcher: RecordBatcher) -> None:
    upstream.gate.clear()
    first = batcher.load("a")
    assert upstream.received.acquire(timeout=HANG_SECONDS)
    second = batcher.load("a")
    upstream.gate.set()
    assert result(first) == result(second) == instance("a")
    assert upstream.requests == [["a"]]


def test_response_older_than_a_change_is_fetched_again(upstream: Upstream, batcher: RecordBatcher) -> None:
    batcher.on_changes(ChangeSet(revision=5, everything=True))
    upstream.gate.clear()
    batcher.load("a")
    assert upstream.received.acquire(timeout=HANG_SECONDS)
    upstream.revision, upstream.name = 6, "new"
    batcher.on_changes(ChangeSet(revision=6, instance_ids=frozenset({"a"})))
    later = batcher.load("a")
    upstream.gate.set()
    record = result(later)
    assert record is not None
    assert record.name == "new"
    assert upstream.requests == [["a"], ["a"]]


def test_response_that_stays_too_old_is_an_error(upstream: Upstream, batcher: RecordBatcher) -> None:
    batcher.on_changes(ChangeSet(revision=9, everything=True))
    with pytest.raises(StoreUnavailable, match="older"):
        result(batcher.load("a"))


def test_deleted_malformed_and_unavailable_records(upstream: Upstream, batcher: RecordBatcher) -> None:
    assert result(batcher.load("gone")) is None
    upstream.malformed = {"odd"}
    with pytest.raises(NotOffered, match="odd"):
        result(batcher.load("odd"))
    upstream.error = StoreUnavailable("the control API is away")
    with pytest.raises(StoreUnavailable, match="is away"):
        result(batcher.load("a"))
    upstream.error = RuntimeError("a mistake of ours")
    with pytest.raises(StoreUnavailable, match="RuntimeError"):
        result(batcher.load("a"))
    upstream.error = None
    assert result(batcher.load("a")) == instance("a")


def test_pending_load_fails_when_the_batcher_closes(upstream: Upstream, batcher: RecordBatcher) -> None:
    upstream.gate.clear()
    waiting = batcher.load("a")
    batcher.close()
    with pytest.raises(StoreUnavailable, match="is stopping"):
        result(waiting)


class TestPrefetch:
    @pytest.fixture
    def ready(self, upstream: Upstream, batcher: RecordBatcher) -> RecordBatcher:
        """A batcher that has prefetched `a` and `b`."""
        batcher.on_changes(ChangeSet(revision=5, everything=True))
        batcher.prefetch(["a", "b", "gone"])
        # This load is part of the same batch or a later one, so it resolves after the prefetch.
        result(batcher.load("last"))
        until_prefetched(batcher, {"a", "b"})
        upstream.requests.clear()
        return batcher

    def test_prefetched_record_needs_no_request(self, upstream: Upstream, ready: RecordBatcher) -> None:
        assert result(ready.load("a")) == instance("a")
        assert upstream.requests == []

    @pytest.mark.parametrize(
        "changes",
        [
            ChangeSet(revision=6, everything=True),
            ChangeSet(revision=6, instance_ids=frozenset({"a"})),
            ChangeSet(revision=6, port_ids=frozenset({"port-a"})),
            ChangeSet(revision=6, network_ids=frozenset({"net"})),
        ],
    )
    def test_change_drops_the_prefetched_record(
        self, upstream: Upstream, ready: RecordBatcher, changes: ChangeSet
    ) -> None:
        upstream.revision, upstream.name = 6, "new"
        ready.on_changes(changes)
        record = result(ready.load("a"))
        assert record is not None
        assert record.name == "new"

    def test_unrelated_or_older_change_keeps_the_prefetched_record(
        self, upstream: Upstream, ready: RecordBatcher
    ) -> None:
        ready.on_changes(ChangeSet(revision=5, instance_ids=frozenset({"a"})))
        ready.on_changes(ChangeSet(revision=6, instance_ids=frozenset({"c"})))
        assert result(ready.load("a")) == instance("a")
        assert upstream.requests == []

    def test_nothing_is_prefetched_without_changes(self, upstream: Upstream, ready: RecordBatcher) -> None:
        ready.on_feed_lost()
        ready.prefetch(["c"])
        assert result(ready.load("a")) == instance("a")
        assert upstream.requests == [["a"]]
        ready.on_changes(ChangeSet(revision=5))  # changes arrive again
        until_prefetched(ready, {"b", "c"})


def until_prefetched(batcher: RecordBatcher, ids: set[str]) -> None:
    """Waits until the batcher's threads have stored the prefetched records."""
    until(lambda: ids <= batcher._prefetched.keys(), "they are fetched")


def test_changed_ports_of_this_host_are_prefetched() -> None:
    prefetched: list[set[str]] = []
    prefetch = Prefetcher("here", lambda ids: prefetched.append(set(ids)))
    ports = {
        "a": port("a", host="here"),
        "b": port("b", host="there"),
        "d": port("d", host="here", device_owner="network:dhcp"),
        "e": port("e", host="here", device_id=""),
    }
    prefetch.on_view(CloudView(revision=1, ports=ports))
    prefetch.on_view(CloudView(revision=2, ports=ports))
    prefetch.on_view(CloudView(revision=3, ports={**ports, "c": port("c", host="here")}))
    prefetch.on_view(CloudView(revision=4, ports={**ports, "c": port("c", host="here"), "b": port("b", host="here")}))
    assert prefetched == [{"vm-a"}, {"vm-c"}, {"vm-b", "vm-c"}]
