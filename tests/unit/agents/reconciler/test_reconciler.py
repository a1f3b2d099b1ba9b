from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from tests.waiting import HANG_SECONDS, until

from openimds.agents.protocols import CloudView
from openimds.agents.reconciler.reconciler import NoChanges, Reconciler
from openimds.agents.reconciler.scheduler import SLICE_SIZE, Scheduler
from openimds.agents.testing import FakeMirror, FakeView


@dataclass
class Pots:
    """A handler of pots, which have a name and a desired size. The cracked ones fail."""

    kind: str = "pot"
    sizes: dict[str, int] = field(default_factory=dict)
    shelf: dict[str, int] = field(default_factory=dict)
    cracked: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    def desired(self, view: CloudView) -> Mapping[str, int]:
        return dict(self.sizes)

    def actual(self) -> set[str]:
        return set(self.shelf)

    def ensure(self, key: str, wanted: int) -> Iterable[str]:
        self.calls.append(f"make {key}")
        if key in self.cracked:
            raise ValueError(f"{key} cracked")
        if self.shelf.get(key) == wanted:
            return ()
        self.shelf[key] = wanted
        return (f"size {wanted}",)

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        self.calls.append(f"remove {key}")
        if key in self.cracked:
            raise ValueError(f"{key} is stuck")
        del self.shelf[key]
        return ("gone",)

    def cleanup(self, view: CloudView) -> Iterable[str]:
        self.calls.append("cleanup")
        return ()

    def pids(self) -> Iterable[int]:
        return self.shelf.values()


def test_pass_reconciles_only_new_desired_values() -> None:
    pots = Pots(sizes={"a": 1, "b": 1})
    reconciler = Reconciler(pots)
    reconciler.run_pass(FakeView(), full=True)
    pots.calls.clear()
    pots.sizes["b"] = 2
    report = reconciler.run_pass(FakeView(), full=False)
    assert pots.calls == ["make b"]
    assert report.changes == {"b": ("size 2",)}
    assert report.resource_count == 2


def test_full_pass_repairs_and_deletes_undesired_resources() -> None:
    pots = Pots(sizes={"a": 1}, shelf={"old": 9})
    reconciler = Reconciler(pots)
    report = reconciler.run_pass(FakeView(), full=True)
    assert pots.calls == ["make a", "remove old", "cleanup"]
    assert report.changes == {"a": ("size 1",), "old": ("gone",)}
    pots.shelf["a"] = 7
    assert reconciler.run_pass(FakeView(), full=False).changes == {}
    assert reconciler.run_pass(FakeView(), full=True).changes == {"a": ("size 1",)}


def test_failure_does_not_stop_the_pass_and_is_retried() -> None:
    pots = Pots(sizes={"a": 1, "b": 1}, cracked={"a"})
    reconciler = Reconciler(pots)
    report = reconciler.run_pass(FakeView(), full=False)
    assert report.failures == {"a": "a cracked"}
    assert pots.shelf == {"b": 1}
    pots.cracked.clear()
    pots.calls.clear()
    report = reconciler.run_pass(FakeView(), full=False)
    assert pots.calls == ["make a"]
    assert report.failures == {}


def test_untrusted_view_deletes_nothing_and_changes_no_earlier_resource() -> None:
    pots = Pots(sizes={"a": 1, "b": 1}, shelf={"a": 5, "old": 9})
    reconciler = Reconciler(pots)
    report = reconciler.run_pass(FakeView(is_trusted=False), full=True)
    assert pots.shelf == {"a": 5, "b": 1, "old": 9}
    assert report.changes == {"b": ("size 1",)}
    pots.sizes["b"] = 2
    reconciler.run_pass(FakeView(is_trusted=False), full=True)
    assert pots.shelf == {"a": 5, "b": 2, "old": 9}
    del pots.sizes["b"]
    reconciler.run_pass(FakeView(is_trusted=False), full=True)
    assert "cleanup" not in pots.calls
    reconciler.run_pass(FakeView(), full=True)
    assert pots.shelf == {"a": 1}
    assert "cleanup" in pots.calls


def test_failed_deletion_is_retried() -> None:
    pots = Pots(sizes={"a": 1})
    reconciler = Reconciler(pots)
    reconciler.run_pass(FakeView(), full=False)
    pots.sizes.clear()
    pots.cracked.add("a")
    assert reconciler.run_pass(FakeView(), full=False).failures == {"a": "a is stuck"}
    pots.cracked.clear()
    assert reconciler.run_pass(FakeView(), full=False).changes == {"a": ("gone",)}
    assert reconciler.run_pass(FakeView(), full=False).changes == {}


def test_scheduler_waits_for_the_mirror_handles_changes_and_stops() -> None:
    view = FakeView(revision=-1)
    mirror = FakeMirror(view)
    pots = Pots(sizes={"a": 1}, shelf={"old": 1})
    watched: list[list[int]] = []
    scheduler = Scheduler(Reconciler(pots), mirror, 60, lambda pids: watched.append(sorted(pids)))
    thread = threading.Thread(target=scheduler.run, daemon=True)
    thread.start()
    assert not scheduler.first_resync_done.wait(0.05)
    assert pots.shelf == {"old": 1}
    view.revision = 1
    mirror.notify()
    assert scheduler.first_resync_done.wait(HANG_SECONDS)
    pots.sizes["b"] = 1
    view.revision += 1
    mirror.notify()
    until(lambda: pots.shelf == {"a": 1, "b": 1})
    pots.shelf["b"] = 9
    scheduler.request_resync()
    until(lambda: pots.shelf == {"a": 1, "b": 1})
    until(lambda: watched[-1] == [1])
    scheduler.stop()
    thread.join(HANG_SECONDS)
    assert not thread.is_alive()


def test_new_resource_does_not_wait_for_the_end_of_a_resync() -> None:
    pots = Pots(sizes={f"p{number:02}": 1 for number in range(40)})
    view = FakeView()
    scheduler = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    scheduler._run_pass()  # the first pass: every value is new
    pots.calls.clear()
    scheduler.request_resync()
    scheduler._run_pass()
    pots.sizes["new"] = 1
    view.revision += 1
    scheduler._run_pass()
    assert pots.calls.index("make new") == SLICE_SIZE
    while scheduler._run_pass() == 0:
        pass
    assert pots.calls[-1] == "cleanup"
    assert {f"make {name}" for name in pots.sizes} <= set(pots.calls)


def test_first_resync_attempts_each_resource_once_and_ends_if_all_fail() -> None:
    names = [f"p{number:02}" for number in range(3 * SLICE_SIZE)]
    pots = Pots(sizes=dict.fromkeys(names, 1), shelf={"old": 1}, cracked={*names, "old"})
    scheduler = Scheduler(Reconciler(pots), FakeMirror(FakeView()), interval_seconds=60)
    while not scheduler.first_resync_done.is_set():
        before = scheduler.completed_count
        scheduler._run_pass()
        assert scheduler.completed_count > before or scheduler.first_resync_done.is_set()
    assert sorted(pots.calls) == sorted(["remove old", "cleanup", *(f"make {name}" for name in names)])
    assert scheduler.resync_count == 1
    assert scheduler.last_report is not None
    assert set(scheduler.last_report.failures) == {*names, "old"}


def test_one_failing_resource_is_retried_in_each_pass_after_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openimds.agents.reconciler.scheduler.RETRY_SECONDS", 0.0)
    pots = Pots(sizes={"a": 1, "b": 1}, cracked={"a", "b"})
    view = FakeView()
    scheduler = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    scheduler._run_pass()
    pots.calls.clear()
    assert scheduler._run_pass() == 0
    pots.sizes["new"] = 1
    view.revision += 1
    pots.cracked.clear()
    scheduler._run_pass()
    assert pots.calls == ["make a", "make new", "make b"]
    assert scheduler.last_report is not None
    assert set(scheduler.last_report.failures) == {"a"}
    while scheduler._run_pass() == 0:
        pass
    assert scheduler.last_report.failures == {}
    assert scheduler.resync_count == 1


def test_repeated_resync_requests_reach_every_resource() -> None:
    pots = Pots(sizes={f"p{number:02}": 1 for number in range(3 * SLICE_SIZE)})
    scheduler = Scheduler(Reconciler(pots), FakeMirror(FakeView()), interval_seconds=60)
    for _ in range(3):
        scheduler.request_resync()
        scheduler._run_pass()
    assert pots.shelf == pots.sizes


def test_deleted_and_desired_again_resource_does_not_wait_for_the_next_resync() -> None:
    pots = Pots(sizes={f"p{number:02}": 1 for number in range(3 * SLICE_SIZE)})
    view = FakeView()
    scheduler = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    scheduler._run_pass()
    del pots.sizes["p00"]
    view.revision += 1
    scheduler._run_pass()
    assert "p00" not in pots.shelf
    pots.sizes["p00"] = 1
    view.revision += 1
    scheduler._run_pass()
    assert "p00" in pots.shelf


def test_completed_count_ignores_repeated_failures() -> None:
    pots = Pots(sizes={"a": 1, "b": 1, "c": 1}, cracked={"b"})
    reconciler = Reconciler(pots)
    reconciler.run_pass(FakeView(), full=False)
    assert (reconciler.completed_count, reconciler.resource_count) == (3, 3)
    reconciler.run_pass(FakeView(), full=False)
    assert reconciler.completed_count == 3
    pots.cracked.clear()
    reconciler.run_pass(FakeView(), full=False)
    assert reconciler.completed_count == 4


@pytest.mark.parametrize("removal_fails", [False, True])
def test_changed_resource_does_not_wait_for_its_slice(removal_fails: bool) -> None:
    names = [f"p{number:02}" for number in range(3 * SLICE_SIZE)]
    pots = Pots(sizes=dict.fromkeys(names, 1))
    view = FakeView()
    scheduler = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    while not scheduler.first_resync_done.is_set():
        scheduler._run_pass()
    last = names[-1]
    if removal_fails:
        del pots.sizes[last]
        pots.cracked.add(last)
        view.revision += 1
        scheduler._run_pass()
        pots.cracked.clear()
    scheduler.request_resync()
    scheduler._run_pass()
    pots.sizes[last] = 2
    view.revision += 1
    scheduler._run_pass()
    assert pots.shelf[last] == 2


def test_resource_that_recovered_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openimds.agents.reconciler.scheduler.RETRY_SECONDS", 0.0)
    pots = Pots(sizes={"a": 1, "b": 1, "c": 1}, cracked={"a", "b", "c"})
    view = FakeView()
    scheduler = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    scheduler._run_pass()
    pots.calls.clear()
    pots.cracked.discard("b")
    pots.sizes["b"] = 2
    view.revision += 1
    for _ in range(3):
        scheduler._run_pass()
    assert pots.calls == ["make b", "make a", "make c"]


def test_resyncs_take_at_most_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("openimds.agents.reconciler.scheduler.time", SimpleNamespace(monotonic=lambda: clock.now))

    class SlowPots(Pots):
        def cleanup(self, view: CloudView) -> Iterable[str]:
            clock.now += 10
            return super().cleanup(view)

    pots = SlowPots(sizes={"a": 1})
    scheduler = Scheduler(Reconciler(pots), FakeMirror(FakeView()), interval_seconds=60)
    assert scheduler._run_pass() == 90
    clock.now += 89
    scheduler._run_pass()
    assert pots.calls.count("cleanup") == 1
    clock.now += 1
    scheduler._run_pass()
    assert pots.calls.count("cleanup") == 2


class RecordingSource(NoChanges):
    def __init__(self) -> None:
        self.keys: list[str] = []

    def forget(self, key: str) -> None:
        self.keys.append(key)


def test_deleted_resource_is_no_longer_watched() -> None:
    pots, changes = Pots(sizes={"a": 1, "b": 1}), RecordingSource()
    reconciler = Reconciler(pots, changes)
    reconciler.run_pass(FakeView(), full=True)
    pots.sizes.clear()
    pots.cracked.add("a")
    reconciler.run_pass(FakeView(), full=True)
    assert changes.keys == ["b"]
    pots.cracked.clear()
    reconciler.run_pass(FakeView(), full=True)
    assert changes.keys == ["b", "a"]
