"""Questions asked together, and what is fetched ahead: who gets which answer, and how many requests it takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import pytest
from tests.waiting import HANG_SECONDS, until

from openimds.client.instance_records import MANY, BatchResult, Prefetcher, RecordBatcher
from openimds.client.mirror import CloudView
from openimds.resources.errors import NotOffered, StoreUnavailable
from openimds.resources.instance import ChangeSet, Ec2Ids, Instance, Nic
from openimds.resources.network import Port


def instance(instance_id: str, name: str = "vm") -> Instance:
    nic = Nic(port_id=f"port-{instance_id}", mac_address=None, vif_type=None, device_name=None, network_id="net")
    ids = Ec2Ids(instance_id="i-00000001")
    return Instance(
        id=instance_id, project_id="p", name=name, hostname="vm", ec2_ids=ids, flavor_name="m1", nics=(nic,)
    )


class Upstream:
    """Answers at `revision`; while `gate` is closed, it holds every request."""

    def __init__(self) -> None:
        self.revision = 5
        self.name = "vm"
        self.untold: set[str] = set()
        self.error: Exception | None = None
        self.requests: list[list[str]] = []
        self.asked = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, ids: Sequence[str]) -> BatchResult:
        self.requests.append(list(ids))
        revision, name = self.revision, self.name
        self.asked.release()
        assert self.gate.wait(HANG_SECONDS)
        if self.error:
            raise self.error
        return BatchResult(
            revision, {i: None if i == "gone" else instance(i, name) for i in ids if i not in self.untold}
        )


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def questions(upstream: Upstream) -> Iterator[RecordBatcher]:
    made = RecordBatcher(upstream.fetch)
    made.start()
    yield made
    upstream.gate.set()
    made.close()


def answer(question: Future[Instance | None]) -> Instance | None:
    return question.result(HANG_SECONDS)


def test_many_at_once_are_few_requests_and_each_id_is_asked_once(upstream: Upstream, questions: RecordBatcher) -> None:
    asked = {f"vm-{number}": [] for number in range(1000)}  # type: dict[str, list[Future[Instance | None]]]
    for _ in range(3):
        for instance_id, futures in asked.items():
            futures.append(questions.load(instance_id))
    for instance_id, futures in asked.items():
        assert [answer(future) for future in futures] == [instance(instance_id)] * 3
    ids = [instance_id for request in upstream.requests for instance_id in request]
    assert max(map(len, upstream.requests)) <= MANY
    assert set(ids) == set(asked)


def test_who_asks_while_it_is_on_its_way_shares_it(upstream: Upstream, questions: RecordBatcher) -> None:
    upstream.gate.clear()
    first = questions.load("a")
    assert upstream.asked.acquire(timeout=HANG_SECONDS)
    second = questions.load("a")
    upstream.gate.set()
    assert answer(first) == answer(second) == instance("a")
    assert upstream.requests == [["a"]]


def test_what_was_read_before_the_news_is_asked_again(upstream: Upstream, questions: RecordBatcher) -> None:
    questions.on_changes(ChangeSet(revision=5, everything=True))
    upstream.gate.clear()
    questions.load("a")
    assert upstream.asked.acquire(timeout=HANG_SECONDS)
    upstream.revision, upstream.name = 6, "new"
    questions.on_changes(ChangeSet(revision=6, instance_ids=frozenset({"a"})))
    later = questions.load("a")
    upstream.gate.set()
    found = answer(later)
    assert found is not None
    assert found.name == "new"
    assert upstream.requests == [["a"], ["a"]]


def test_an_answer_that_stays_too_old_is_none(upstream: Upstream, questions: RecordBatcher) -> None:
    questions.on_changes(ChangeSet(revision=9, everything=True))
    with pytest.raises(StoreUnavailable, match="newer news"):
        answer(questions.load("a"))


def test_gone_untold_and_away(upstream: Upstream, questions: RecordBatcher) -> None:
    assert answer(questions.load("gone")) is None
    upstream.untold = {"odd"}
    with pytest.raises(NotOffered, match="odd"):
        answer(questions.load("odd"))
    upstream.error = StoreUnavailable("the control API is away")
    with pytest.raises(StoreUnavailable, match="is away"):
        answer(questions.load("a"))
    upstream.error = RuntimeError("a mistake of ours")
    with pytest.raises(StoreUnavailable, match="RuntimeError"):
        answer(questions.load("a"))
    upstream.error = None
    assert answer(questions.load("a")) == instance("a")


def test_the_end_tells_whoever_waits(upstream: Upstream, questions: RecordBatcher) -> None:
    upstream.gate.clear()
    waiting = questions.load("a")
    questions.close()
    with pytest.raises(StoreUnavailable, match="about to end"):
        answer(waiting)


class TestAhead:
    @pytest.fixture
    def ready(self, upstream: Upstream, questions: RecordBatcher) -> RecordBatcher:
        """`a` and `b` are here already."""
        questions.on_changes(ChangeSet(revision=5, everything=True))
        questions.prefetch(["a", "b", "gone"])
        # A question of the same request as theirs, or of a later one, is answered when theirs are kept.
        answer(questions.load("last"))
        until_known(questions, {"a", "b"})
        upstream.requests.clear()
        return questions

    def test_no_request_when_the_guest_asks(self, upstream: Upstream, ready: RecordBatcher) -> None:
        assert answer(ready.load("a")) == instance("a")
        assert upstream.requests == []

    @pytest.mark.parametrize(
        "news",
        [
            ChangeSet(revision=6, everything=True),
            ChangeSet(revision=6, instance_ids=frozenset({"a"})),
            ChangeSet(revision=6, port_ids=frozenset({"port-a"})),
            ChangeSet(revision=6, network_ids=frozenset({"net"})),
        ],
    )
    def test_news_drop_it(self, upstream: Upstream, ready: RecordBatcher, news: ChangeSet) -> None:
        upstream.revision, upstream.name = 6, "new"
        ready.on_changes(news)
        found = answer(ready.load("a"))
        assert found is not None
        assert found.name == "new"

    def test_news_of_others_and_of_what_it_was_read_after_do_not(
        self, upstream: Upstream, ready: RecordBatcher
    ) -> None:
        ready.on_changes(ChangeSet(revision=5, instance_ids=frozenset({"a"})))
        ready.on_changes(ChangeSet(revision=6, instance_ids=frozenset({"c"})))
        assert answer(ready.load("a")) == instance("a")
        assert upstream.requests == []

    def test_without_news_nothing_is_kept(self, upstream: Upstream, ready: RecordBatcher) -> None:
        ready.on_feed_lost()
        ready.prefetch(["c"])
        assert answer(ready.load("a")) == instance("a")
        assert upstream.requests == [["a"]]
        ready.on_changes(ChangeSet(revision=5))  # they come again
        until_known(ready, {"b", "c"})


def until_known(questions: RecordBatcher, ids: set[str]) -> None:
    """`fetch_ahead` waits for nobody: look until the senders have put them down."""
    until(lambda: ids <= questions._ahead.keys(), "they are fetched")


def test_ports_that_change_on_this_host_are_fetched_ahead() -> None:
    def port(port_id: str, host: str = "here", owner: str = "compute:nova", device: str = "vm") -> Port:
        return Port(
            id=port_id,
            network_id="n",
            project_id="p",
            mac_address="fa:16:3e:00:00:01",
            host=host,
            device_owner=owner,
            device_id=f"{device}-{port_id}" if device else "",
        )

    wanted: list[set[str]] = []
    prefetch = Prefetcher("here", lambda ids: wanted.append(set(ids)))
    ports = {
        "a": port("a"),
        "b": port("b", host="there"),
        "d": port("d", owner="network:dhcp"),
        "e": port("e", device=""),
    }
    prefetch.on_view(CloudView(revision=1, ports=ports))
    prefetch.on_view(CloudView(revision=2, ports=ports))
    prefetch.on_view(CloudView(revision=3, ports={**ports, "c": port("c")}))
    prefetch.on_view(CloudView(revision=4, ports={**ports, "c": port("c"), "b": port("b")}))
    assert wanted == [{"vm-a"}, {"vm-c"}, {"vm-b", "vm-c"}]
