"""Rounds: what is wanted, compared with what is there, thing by thing, for ever.

Start, update, healing and cleaning up after a crash are the same code. Events may be lost, repeated or come in any
order: an event only says that it is worth looking.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

import structlog

from openimds.agents.mirrored import Mirror, View

RETRY_SECONDS = 1.0
"""After a round in which something failed."""
SLICE_THINGS = 8
"""So many things of a full round are looked at before the next look at what is new."""
PAUSE_PER_WORK = 9

logger = structlog.get_logger(__name__)
Wanted = TypeVar("Wanted")


class Trade(Protocol[Wanted]):
    """What an agent makes and keeps: things of one kind, each known by an id. Values compare equal when nothing
    has to be done.
    """

    kind: str
    """For logs: `network`, `router`."""

    def wanted(self, view: View) -> Mapping[str, Wanted]: ...

    def there(self) -> set[str]:
        """The ids of those that this host has anything of."""

    def make(self, key: str, wanted: Wanted) -> Iterable[str]:
        """Idempotent. The changes made, in words; raises with all that failed, after the rest was done."""

    def remove(self, key: str, view: View) -> Iterable[str]:
        """Idempotent."""

    def tidy(self, view: View) -> Iterable[str]:
        """What no single thing owns; once a full round."""

    def pids(self) -> Iterable[int]:
        """The programs that should be running; whose end calls for a look."""


class Notices(Protocol):
    """Hears what others do to what an agent made."""

    def looking_at(self, key: str) -> AbstractContextManager[None]:
        """Whatever is looked at in the block belongs to `key`, and is heard of from then on."""

    def forget(self, key: str) -> None: ...

    def take(self) -> Collection[str]:
        """The keys that somebody may have touched something of, since the last call; also keys of no thing at all."""

    @property
    def seconds_to_next(self) -> float | None:
        """When to `take` again; None: when there is news."""


class NoNotices:
    """Hears of nothing: full rounds find what others did."""

    seconds_to_next: float | None = None

    def looking_at(self, _key: str) -> AbstractContextManager[None]:
        return nullcontext()

    def forget(self, key: str) -> None: ...

    def take(self) -> Collection[str]:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What one round found and did. It ends up in the heartbeat."""

    things: int
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    """Of all things, also of those that this round did not look at."""
    milliseconds: float = 0
    ended_at: datetime


class Rounds(Generic[Wanted]):
    """Not for two threads at once."""

    def __init__(self, trade: Trade[Wanted], notices: Notices | None = None) -> None:
        self.notices: Notices = notices or NoNotices()
        self._trade = trade
        self._seen: tuple[View, int] | None = None
        """The view that `_wanted` is of, and its revision."""
        self._wanted: Mapping[str, Wanted] = {}
        self._made: dict[str, Wanted] = {}
        self._failures: dict[str, str] = {}
        self.steps = 0
        """How many looks at a thing ended, but for those that failed once more: it grows while there is progress. Any
        thread may read it."""

    @property
    def things(self) -> int:
        """How many are wanted, as the last look saw it."""
        return len(self._wanted)

    def pids(self) -> frozenset[int]:
        return frozenset(self._trade.pids())

    def everything(self, view: View) -> frozenset[str]:
        """The ids of all that is wanted, was made or is there. The settings may be new, so what is wanted is asked anew."""
        self._seen = None
        known = {*self._made, *self._failures} - {self._trade.kind}
        return frozenset({*self._wanted_in(view), *known, *self._trade.there()})

    def round(self, view: View, *, everything: bool) -> RoundReport:
        """`everything`: look at each thing, for what others did to it; else only at those whose wanted value is new."""
        return self.look(view, self.everything(view) if everything else (), tidy=everything)

    def look(self, view: View, also: Collection[str] = (), *, tidy: bool = False) -> RoundReport:
        """At the things whose wanted value is new, at those that others may have touched, and then at `also`."""
        started = time.monotonic()
        wanted = self._wanted_in(view)
        new = [key for key, value in wanted.items() if key not in self._made or self._made[key] is not value]
        changes: dict[str, tuple[str, ...]] = {}
        for key in dict.fromkeys([*new, *(key for key in (*self.notices.take(), *also) if key in wanted)]):
            changes[key] = self._make(key, wanted[key])
        for key in sorted(self._gone(wanted, also)):
            changes[key] = self._remove(key, view)
        if tidy:
            changes[self._trade.kind] = self._attempt(self._trade.kind, lambda: self._trade.tidy(view))
        return RoundReport(
            things=len(wanted),
            changes={key: words for key, words in changes.items() if words},
            failures=dict(self._failures),
            milliseconds=round((time.monotonic() - started) * 1000, 1),
            ended_at=datetime.now(UTC),
        )

    def _wanted_in(self, view: View) -> Mapping[str, Wanted]:
        """A view never changes; a value that is as it was made stays the same object, so that comparing it is quick."""
        seen = self._seen
        if seen is None or seen[0] is not view or seen[1] != view.revision:
            made, fresh = self._made, self._trade.wanted(view)
            self._wanted = {key: made[key] if made.get(key) == value else value for key, value in fresh.items()}
            self._seen = (view, view.revision)
        return self._wanted

    def _gone(self, wanted: Mapping[str, Wanted], also: Collection[str]) -> set[str]:
        known = {*self._made, *self._failures} - {self._trade.kind}
        return (known | set(also)) - set(wanted)

    def _make(self, key: str, value: Wanted) -> tuple[str, ...]:
        self._made.pop(key, None)
        had_failed = key in self._failures
        with self.notices.looking_at(key):
            words = self._attempt(key, lambda: self._trade.make(key, value))
        if key not in self._failures:
            self._made[key] = value
        if key not in self._failures or not had_failed:
            self.steps += 1
        return words

    def _remove(self, key: str, view: View) -> tuple[str, ...]:
        words = self._attempt(key, lambda: self._trade.remove(key, view))
        if key not in self._failures:
            self._made.pop(key, None)
            self.notices.forget(key)
        return words

    def _attempt(self, key: str, work: Callable[[], Iterable[str]]) -> tuple[str, ...]:
        try:
            words = tuple(work())
        except Exception as error:  # noqa: BLE001 - one broken thing must not keep the others from being served
            self._note_failure(key, error)
            return ()
        if self._failures.pop(key, None) is not None:
            logger.info("works again", **{self._trade.kind: key})
        if words:
            logger.info("changed", changes=list(words), **{self._trade.kind: key})
        return words

    def _note_failure(self, key: str, error: Exception) -> None:
        sentence = f"{error}" or type(error).__name__
        if self._failures.get(key) != sentence:
            unforeseen = isinstance(error, (AttributeError, KeyError, TypeError, AssertionError))
            logger.warning(
                "failed; will be tried again", error=sentence, exc_info=unforeseen, **{self._trade.kind: key}
            )
        self._failures[key] = sentence


class Loop(Generic[Wanted]):
    """Calls for a round at every change, and for another after a failure.

    A full round begins every `interval_seconds`. It goes by slices, and what is new comes first in each, so that a host
    with many things serves a new one at once; and it takes a tenth of the time at most.
    """

    def __init__(
        self,
        rounds: Rounds[Wanted],
        mirror: Mirror,
        interval_seconds: float,
        watch: Callable[[Iterable[int]], None] = lambda _pids: None,
    ) -> None:
        """`watch` is told after every round which processes should be running."""
        self._rounds = rounds
        self._watch = watch
        self._mirror = mirror
        self._full = _FullRound(interval_seconds)
        self._woken = threading.Event()
        self._stopping = False
        self.last_report: RoundReport | None = None
        """Replaced whole: any thread may read it."""
        self.last_change: RoundReport | None = None
        """The newest round that changed something."""
        self.first_round_done = threading.Event()
        self.full_rounds = 0
        """How many have ended."""
        self.full_round_milliseconds: float | None = None
        """How long the last of them took."""

    @property
    def steps(self) -> int:
        """As `Rounds.steps`."""
        return self._rounds.steps

    @property
    def things(self) -> int:
        return self._rounds.things

    def run(self) -> None:
        """Until `stop`."""
        self._mirror.subscribe(self._on_change)
        while not self._stopping:
            self._woken.clear()
            self._woken.wait(self._round())

    def look_at_news(self) -> None:
        """At once: the notices have some."""
        self._woken.set()

    def look_at_everything(self) -> None:
        """At once: the settings are new, or a notice was lost."""
        self._full.is_due = True
        self._woken.set()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()

    def _round(self) -> float:
        """Seconds to the next one. An empty view that only means "not heard yet" takes nothing away."""
        view = self._mirror.view()
        if view.revision < 0:
            return RETRY_SECONDS
        if self._full.should_begin():
            self._full.begin(self._rounds.everything(view))
        report = self._rounds.look(view, self._full.next_slice(), tidy=self._full.at_end)
        self.last_report = report
        if report.changes:
            self.last_change = report
        if report.changes or self._full.at_end:
            self._watch(self._rounds.pids())
        if self._full.at_end:
            self.full_round_milliseconds = round(self._full.finish() * 1000, 1)
            self.full_rounds += 1
            self.first_round_done.set()
        pause = self._full.seconds_to_next()
        news = self._rounds.notices.seconds_to_next
        pause = pause if news is None else min(pause, news)
        return min(pause, RETRY_SECONDS) if report.failures else pause

    def _on_change(self, _view: object) -> None:
        self._woken.set()


class _FullRound:
    """How far a full round has come, and when the next one begins."""

    def __init__(self, interval_seconds: float) -> None:
        self.is_due = True
        self._interval_seconds = interval_seconds
        self._left: deque[str] | None = None
        """None: no full round is under way."""
        self._began = 0.0
        self._next = 0.0

    @property
    def at_end(self) -> bool:
        return self._left is not None and not self._left

    def should_begin(self) -> bool:
        return self.is_due or (self._left is None and time.monotonic() >= self._next)

    def begin(self, keys: Iterable[str]) -> None:
        self.is_due = False
        self._left = deque(sorted(keys))
        self._began = time.monotonic()

    def next_slice(self) -> list[str]:
        left = self._left or deque()
        return [left.popleft() for _ in range(min(SLICE_THINGS, len(left)))]

    def finish(self) -> float:
        """The seconds that it took."""
        self._left = None
        ended = time.monotonic()
        took = ended - self._began
        self._next = ended + max(self._interval_seconds, took * PAUSE_PER_WORK)
        return took

    def seconds_to_next(self) -> float:
        if self._left is not None:
            return 0.0
        return max(0.0, self._next - time.monotonic())
