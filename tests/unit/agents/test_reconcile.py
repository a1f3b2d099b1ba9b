from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.waiting import HANG_SECONDS, until

from openimds.agents.fakes import FakeMirror, FakeView
from openimds.agents.mirrored import View
from openimds.agents.reconcile import SLICE_THINGS, Loop, Rounds


@dataclass
class Pots:
    """A trade of pots: wanted by name and size; some break."""

    kind: str = "pot"
    sizes: dict[str, int] = field(default_factory=dict)
    shelf: dict[str, int] = field(default_factory=dict)
    cracked: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)

    def wanted(self, view: View) -> Mapping[str, int]:
        return dict(self.sizes)

    def there(self) -> set[str]:
        return set(self.shelf)

    def make(self, key: str, wanted: int) -> Iterable[str]:
        self.done.append(f"make {key}")
        if key in self.cracked:
            raise ValueError(f"{key} cracked")
        if self.shelf.get(key) == wanted:
            return ()
        self.shelf[key] = wanted
        return (f"size {wanted}",)

    def remove(self, key: str, view: View) -> Iterable[str]:
        self.done.append(f"remove {key}")
        if key in self.cracked:
            raise ValueError(f"{key} is stuck")
        del self.shelf[key]
        return ("gone",)

    def tidy(self, view: View) -> Iterable[str]:
        self.done.append("tidy")
        return ()

    def pids(self) -> Iterable[int]:
        return self.shelf.values()


def test_only_what_is_new_is_looked_at() -> None:
    pots = Pots(sizes={"a": 1, "b": 1})
    rounds = Rounds(pots)
    rounds.round(FakeView(), everything=True)
    pots.done.clear()
    pots.sizes["b"] = 2
    report = rounds.round(FakeView(), everything=False)
    assert pots.done == ["make b"]
    assert report.changes == {"b": ("size 2",)}
    assert report.things == 2


def test_full_round_repairs_and_takes_away_what_nobody_wants() -> None:
    pots = Pots(sizes={"a": 1}, shelf={"old": 9})
    rounds = Rounds(pots)
    report = rounds.round(FakeView(), everything=True)
    assert pots.done == ["make a", "remove old", "tidy"]
    assert report.changes == {"a": ("size 1",), "old": ("gone",)}
    pots.shelf["a"] = 7
    assert rounds.round(FakeView(), everything=False).changes == {}
    assert rounds.round(FakeView(), everything=True).changes == {"a": ("size 1",)}


def test_one_failure_keeps_nobody_else_waiting_and_is_tried_again() -> None:
    pots = Pots(sizes={"a": 1, "b": 1}, cracked={"a"})
    rounds = Rounds(pots)
    report = rounds.round(FakeView(), everything=False)
    assert report.failures == {"a": "a cracked"}
    assert pots.shelf == {"b": 1}
    pots.cracked.clear()
    pots.done.clear()
    report = rounds.round(FakeView(), everything=False)
    assert pots.done == ["make a"]
    assert report.failures == {}


def test_removal_that_failed_is_tried_again() -> None:
    pots = Pots(sizes={"a": 1})
    rounds = Rounds(pots)
    rounds.round(FakeView(), everything=False)
    pots.sizes.clear()
    pots.cracked.add("a")
    assert rounds.round(FakeView(), everything=False).failures == {"a": "a is stuck"}
    pots.cracked.clear()
    assert rounds.round(FakeView(), everything=False).changes == {"a": ("gone",)}
    assert rounds.round(FakeView(), everything=False).changes == {}


def test_loop_waits_for_knowledge_heeds_changes_and_stops() -> None:
    view = FakeView(revision=-1)
    mirror = FakeMirror(view)
    pots = Pots(sizes={"a": 1}, shelf={"old": 1})
    watched: list[list[int]] = []
    loop = Loop(Rounds(pots), mirror, 60, lambda pids: watched.append(sorted(pids)))
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    assert not loop.first_round_done.wait(0.05)
    assert pots.shelf == {"old": 1}
    view.revision = 1
    mirror.tell()
    assert loop.first_round_done.wait(HANG_SECONDS)
    pots.sizes["b"] = 1
    view.revision += 1
    mirror.tell()
    until(lambda: pots.shelf == {"a": 1, "b": 1})
    pots.shelf["b"] = 9
    loop.look_at_everything()
    until(lambda: pots.shelf == {"a": 1, "b": 1})
    until(lambda: watched[-1] == [1])
    loop.stop()
    thread.join(HANG_SECONDS)
    assert not thread.is_alive()


def test_new_things_do_not_wait_for_the_end_of_a_full_round() -> None:
    pots = Pots(sizes={f"p{number:02}": 1 for number in range(40)})
    view = FakeView()
    loop = Loop(Rounds(pots), FakeMirror(view), interval_seconds=60)
    loop._round()  # the first: everything is new
    pots.done.clear()
    loop.look_at_everything()
    loop._round()
    pots.sizes["new"] = 1
    view.revision += 1
    loop._round()
    assert pots.done.index("make new") == SLICE_THINGS
    while loop._round() == 0:
        pass
    assert pots.done[-1] == "tidy"
    assert {f"make {name}" for name in pots.sizes} <= set(pots.done)


def test_steps_grow_with_what_is_done_and_not_with_what_fails_again() -> None:
    pots = Pots(sizes={"a": 1, "b": 1, "c": 1}, cracked={"b"})
    rounds = Rounds(pots)
    rounds.round(FakeView(), everything=False)
    assert (rounds.steps, rounds.things) == (3, 3)
    rounds.round(FakeView(), everything=False)
    assert rounds.steps == 3
    pots.cracked.clear()
    rounds.round(FakeView(), everything=False)
    assert rounds.steps == 4
