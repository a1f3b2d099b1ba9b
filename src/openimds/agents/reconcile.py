"""Rounds: what is wanted, compared with what is there, thing by thing, for ever.

Start, update, healing and cleaning up after a crash are the same code. Events may be lost, repeated or come in any
order: an event only says that it is worth looking.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

import structlog

from openimds.agents.mirrored import Mirror, View

RETRY_SECONDS = 1.0
"""After a round in which something failed."""

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
        """The programs that should be running; whose end calls for a full round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What one round found and did. It ends up in the heartbeat."""

    everything: bool
    things: int
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    """Of all things, also of those that this round did not look at."""
    milliseconds: float = 0
    ended_at: datetime


class Rounds(Generic[Wanted]):
    """Not for two threads at once."""

    def __init__(self, trade: Trade[Wanted]) -> None:
        self._trade = trade
        self._made: dict[str, Wanted] = {}
        self._failures: dict[str, str] = {}

    def pids(self) -> frozenset[int]:
        return frozenset(self._trade.pids())

    def round(self, view: View, *, everything: bool) -> RoundReport:
        """`everything`: look at each thing, for what others did to it; else only at those whose wanted value is new."""
        started = time.monotonic()
        wanted = self._trade.wanted(view)
        changes: dict[str, tuple[str, ...]] = {}
        for key, value in wanted.items():
            if everything or key not in self._made or self._made[key] != value:
                changes[key] = self._make(key, value)
        for key in sorted(self._gone(wanted, everything=everything)):
            changes[key] = self._remove(key, view)
        if everything:
            changes[self._trade.kind] = self._attempt(self._trade.kind, lambda: self._trade.tidy(view))
        return RoundReport(
            everything=everything,
            things=len(wanted),
            changes={key: words for key, words in changes.items() if words},
            failures=dict(self._failures),
            milliseconds=round((time.monotonic() - started) * 1000, 1),
            ended_at=datetime.now(UTC),
        )

    def _gone(self, wanted: Mapping[str, Wanted], *, everything: bool) -> set[str]:
        known = {*self._made, *self._failures} - {self._trade.kind}
        return (known | (self._trade.there() if everything else set())) - set(wanted)

    def _make(self, key: str, value: Wanted) -> tuple[str, ...]:
        self._made.pop(key, None)
        words = self._attempt(key, lambda: self._trade.make(key, value))
        if key not in self._failures:
            self._made[key] = value
        return words

    def _remove(self, key: str, view: View) -> tuple[str, ...]:
        words = self._attempt(key, lambda: self._trade.remove(key, view))
        if key not in self._failures:
            self._made.pop(key, None)
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
    """Calls for a round at every change, for a full one every `interval_seconds`, and for another after a failure."""

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
        self._interval_seconds = interval_seconds
        self._woken = threading.Event()
        self._stopping = False
        self._everything = True
        self.last_report: RoundReport | None = None
        """Replaced whole: any thread may read it."""
        self.last_change: RoundReport | None = None
        """The newest round that changed something."""
        self.first_round_done = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        self._mirror.subscribe(self._on_change)
        next_full = 0.0
        while not self._stopping:
            self._woken.clear()
            everything = self._everything or time.monotonic() >= next_full
            failed = self._round(everything=everything)
            if everything:
                next_full = time.monotonic() + self._interval_seconds
            pause = next_full - time.monotonic()
            self._woken.wait(max(0.0, min(pause, RETRY_SECONDS) if failed else pause))

    def _round(self, *, everything: bool) -> bool:
        """Whether something failed. An empty view that only means "not heard yet" takes nothing away."""
        view = self._mirror.view()
        if view.revision < 0:
            return True
        self._everything = False
        self.last_report = self._rounds.round(view, everything=everything)
        if self.last_report.changes:
            self.last_change = self.last_report
        self._watch(self._rounds.pids())
        self.first_round_done.set()
        return bool(self.last_report.failures)

    def _on_change(self, _view: object) -> None:
        self._woken.set()

    def look_at_everything(self) -> None:
        """At once: the settings are new."""
        self._everything = True
        self._woken.set()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()
