from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from tests.waiting import HANG_SECONDS, until

from openimds.agents.protocols import CloudView
from openimds.agents.reconciler.reconciler import NoChanges, Reconciler
from openimds.agents.reconciler.scheduler import SLICE_THINGS, Scheduler
from openimds.agents.testing import FakeMirror, FakeView


@dataclass
class Pots:
    """A trade of pots: wanted by name and size; some break."""

    kind: str = "pot"
    sizes: dict[str, int] = field(default_factory=dict)
    shelf: dict[str, int] = field(default_factory=dict)
    cracked: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)

    def desired(self, view: CloudView) -> Mapping[str, int]:
        return dict(self.sizes)

    def actual(self) -> set[str]:
        return set(self.shelf)

    def ensure(self, key: str, wanted: int) -> Iterable[str]:
        self.done.append(f"make {key}")
        if key in self.cracked:
            raise ValueError(f"{key} cracked")
        if self.shelf.get(key) == wanted:
            return ()
        self.shelf[key] = wanted
        return (f"size {wanted}",)

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        self.done.append(f"remove {key}")
        if key in self.cracked:
            raise ValueError(f"{key} is stuck")
        del self.shelf[key]
        return ("gone",)

    def cleanup(self, view: CloudView) -> Iterable[str]:
        self.done.append("tidy")
        return ()

    def pids(self) -> Iterable[int]:
        return self.shelf.values()


def test_only_what_is_new_is_looked_at() -> None:
    pots = Pots(sizes={"a": 1, "b": 1})
    rounds = Reconciler(pots)
    rounds.run_pass(FakeView(), full=True)
    pots.done.clear()
    pots.sizes["b"] = 2
    report = rounds.run_pass(FakeView(), full=False)
    assert pots.done == ["make b"]
    assert report.changes == {"b": ("size 2",)}
    assert report.resource_count == 2


def test_full_round_repairs_and_takes_away_what_nobody_wants() -> None:
    pots = Pots(sizes={"a": 1}, shelf={"old": 9})
    rounds = Reconciler(pots)
    report = rounds.run_pass(FakeView(), full=True)
    assert pots.done == ["make a", "remove old", "tidy"]
    assert report.changes == {"a": ("size 1",), "old": ("gone",)}
    pots.shelf["a"] = 7
    assert rounds.run_pass(FakeView(), full=False).changes == {}
    assert rounds.run_pass(FakeView(), full=True).changes == {"a": ("size 1",)}


def test_one_failure_keeps_nobody_else_waiting_and_is_tried_again() -> None:
    pots = Pots(sizes={"a": 1, "b": 1}, cracked={"a"})
    rounds = Reconciler(pots)
    report = rounds.run_pass(FakeView(), full=False)
    assert report.failures == {"a": "a cracked"}
    assert pots.shelf == {"b": 1}
    pots.cracked.clear()
    pots.done.clear()
    report = rounds.run_pass(FakeView(), full=False)
    assert pots.done == ["make a"]
    assert report.failures == {}


def test_removal_that_failed_is_tried_again() -> None:
    pots = Pots(sizes={"a": 1})
    rounds = Reconciler(pots)
    rounds.run_pass(FakeView(), full=False)
    pots.sizes.clear()
    pots.cracked.add("a")
    assert rounds.run_pass(FakeView(), full=False).failures == {"a": "a is stuck"}
    pots.cracked.clear()
    assert rounds.run_pass(FakeView(), full=False).changes == {"a": ("gone",)}
    assert rounds.run_pass(FakeView(), full=False).changes == {}


def test_loop_waits_for_knowledge_heeds_changes_and_stops() -> None:
    view = FakeView(revision=-1)
    mirror = FakeMirror(view)
    pots = Pots(sizes={"a": 1}, shelf={"old": 1})
    watched: list[list[int]] = []
    loop = Scheduler(Reconciler(pots), mirror, 60, lambda pids: watched.append(sorted(pids)))
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    assert not loop.first_resync_done.wait(0.05)
    assert pots.shelf == {"old": 1}
    view.revision = 1
    mirror.notify()
    assert loop.first_resync_done.wait(HANG_SECONDS)
    pots.sizes["b"] = 1
    view.revision += 1
    mirror.notify()
    until(lambda: pots.shelf == {"a": 1, "b": 1})
    pots.shelf["b"] = 9
    loop.request_resync()
    until(lambda: pots.shelf == {"a": 1, "b": 1})
    until(lambda: watched[-1] == [1])
    loop.stop()
    thread.join(HANG_SECONDS)
    assert not thread.is_alive()


def test_new_things_do_not_wait_for_the_end_of_a_full_round() -> None:
    pots = Pots(sizes={f"p{number:02}": 1 for number in range(40)})
    view = FakeView()
    loop = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    loop._round()  # the first: everything is new
    pots.done.clear()
    loop.request_resync()
    loop._round()
    pots.sizes["new"] = 1
    view.revision += 1
    loop._round()
    assert pots.done.index("make new") == SLICE_THINGS
    while loop._round() == 0:
        pass
    assert pots.done[-1] == "tidy"
    assert {f"make {name}" for name in pots.sizes} <= set(pots.done)


def test_first_round_looks_at_each_thing_once_and_ends_though_all_of_them_fail() -> None:
    names = [f"p{number:02}" for number in range(3 * SLICE_THINGS)]
    pots = Pots(sizes=dict.fromkeys(names, 1), shelf={"old": 1}, cracked={*names, "old"})
    loop = Scheduler(Reconciler(pots), FakeMirror(FakeView()), interval_seconds=60)
    while not loop.first_resync_done.is_set():
        before = loop.completed_count
        loop._round()
        assert loop.completed_count > before or loop.first_resync_done.is_set()
    assert sorted(pots.done) == sorted(["remove old", "tidy", *(f"make {name}" for name in names)])
    assert loop.resync_count == 1
    assert loop.last_report is not None
    assert set(loop.last_report.failures) == {*names, "old"}


def test_what_failed_is_tried_again_one_at_a_time_and_what_is_new_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openimds.agents.reconciler.scheduler.RETRY_SECONDS", 0.0)
    pots = Pots(sizes={"a": 1, "b": 1}, cracked={"a", "b"})
    view = FakeView()
    loop = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    loop._round()
    pots.done.clear()
    assert loop._round() == 0
    pots.sizes["new"] = 1
    view.revision += 1
    pots.cracked.clear()
    loop._round()
    assert pots.done == ["make a", "make new", "make b"]
    assert loop.last_report is not None
    assert set(loop.last_report.failures) == {"a"}
    while loop._round() == 0:
        pass
    assert loop.last_report.failures == {}
    assert loop.resync_count == 1


def test_full_round_that_is_called_for_again_and_again_comes_to_everything() -> None:
    pots = Pots(sizes={f"p{number:02}": 1 for number in range(3 * SLICE_THINGS)})
    loop = Scheduler(Reconciler(pots), FakeMirror(FakeView()), interval_seconds=60)
    for _ in range(3):
        loop.request_resync()
        loop._round()
    assert pots.shelf == pots.sizes


def test_thing_that_was_removed_and_is_wanted_again_does_not_wait_for_the_next_full_round() -> None:
    pots = Pots(sizes={f"p{number:02}": 1 for number in range(3 * SLICE_THINGS)})
    view = FakeView()
    loop = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    loop._round()
    del pots.sizes["p00"]
    view.revision += 1
    loop._round()
    assert "p00" not in pots.shelf
    pots.sizes["p00"] = 1
    view.revision += 1
    loop._round()
    assert "p00" in pots.shelf


def test_steps_grow_with_what_is_done_and_not_with_what_fails_again() -> None:
    pots = Pots(sizes={"a": 1, "b": 1, "c": 1}, cracked={"b"})
    rounds = Reconciler(pots)
    rounds.run_pass(FakeView(), full=False)
    assert (rounds.completed_count, rounds.resource_count) == (3, 3)
    rounds.run_pass(FakeView(), full=False)
    assert rounds.completed_count == 3
    pots.cracked.clear()
    rounds.run_pass(FakeView(), full=False)
    assert rounds.completed_count == 4


@pytest.mark.parametrize("removal_fails", [False, True])
def test_thing_that_was_there_before_and_changes_does_not_wait_for_its_turn(removal_fails: bool) -> None:
    names = [f"p{number:02}" for number in range(3 * SLICE_THINGS)]
    pots = Pots(sizes=dict.fromkeys(names, 1))
    view = FakeView()
    loop = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    while not loop.first_resync_done.is_set():
        loop._round()
    last = names[-1]
    if removal_fails:
        del pots.sizes[last]
        pots.cracked.add(last)
        view.revision += 1
        loop._round()
        pots.cracked.clear()
    loop.request_resync()
    loop._round()
    pots.sizes[last] = 2
    view.revision += 1
    loop._round()
    assert pots.shelf[last] == 2


def test_what_is_mended_in_between_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openimds.agents.reconciler.scheduler.RETRY_SECONDS", 0.0)
    pots = Pots(sizes={"a": 1, "b": 1, "c": 1}, cracked={"a", "b", "c"})
    view = FakeView()
    loop = Scheduler(Reconciler(pots), FakeMirror(view), interval_seconds=60)
    loop._round()
    pots.done.clear()
    pots.cracked.discard("b")
    pots.sizes["b"] = 2
    view.revision += 1
    for _ in range(3):
        loop._round()
    assert pots.done == ["make b", "make a", "make c"]


def test_full_rounds_take_a_tenth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("openimds.agents.reconciler.scheduler.time", SimpleNamespace(monotonic=lambda: clock.now))

    class SlowPots(Pots):
        def cleanup(self, view: CloudView) -> Iterable[str]:
            clock.now += 10
            return super().cleanup(view)

    pots = SlowPots(sizes={"a": 1})
    loop = Scheduler(Reconciler(pots), FakeMirror(FakeView()), interval_seconds=60)
    assert loop._round() == 90
    clock.now += 89
    loop._round()
    assert pots.done.count("tidy") == 1
    clock.now += 1
    loop._round()
    assert pots.done.count("tidy") == 2


class Forgotten(NoChanges):
    def __init__(self) -> None:
        self.keys: list[str] = []

    def forget(self, key: str) -> None:
        self.keys.append(key)


def test_what_is_gone_is_not_heard_of_any_longer() -> None:
    pots, notices = Pots(sizes={"a": 1, "b": 1}), Forgotten()
    rounds = Reconciler(pots, notices)
    rounds.run_pass(FakeView(), full=True)
    pots.sizes.clear()
    pots.cracked.add("a")
    rounds.run_pass(FakeView(), full=True)
    assert notices.keys == ["b"]
    pots.cracked.clear()
    rounds.run_pass(FakeView(), full=True)
    assert notices.keys == ["b", "a"]
