"""Rounds: what is wanted, compared with what is there, thing by thing, for ever.

Start, update, healing and cleaning up after a crash are the same code. Events may be lost, repeated or come in any
order: an event only says that it is worth looking.

One thing's parts, made one after the other: what fails keeps the others from nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

import structlog

from openimds.agents.protocols import CloudView

logger = structlog.get_logger(__name__)
Wanted = TypeVar("Wanted")


class ResourceHandler(Protocol[Wanted]):
    """What an agent makes and keeps: things of one kind, each known by an id. Values compare equal when nothing
    has to be done.
    """

    kind: str
    """For logs: `network`, `router`."""

    def desired(self, view: CloudView) -> Mapping[str, Wanted]: ...

    def actual(self) -> set[str]:
        """The ids of those that this host has anything of."""

    def ensure(self, key: str, wanted: Wanted) -> Iterable[str]:
        """Idempotent. The changes made, in words; raises with all that failed, after the rest was done."""

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        """Idempotent."""

    def cleanup(self, view: CloudView) -> Iterable[str]:
        """What no single thing owns; once a full round."""

    def pids(self) -> Iterable[int]:
        """The programs that should be running; whose end calls for a look."""


class ChangeSource(Protocol):
    """Hears what others do to what an agent made."""

    def recording(self, key: str) -> AbstractContextManager[None]:
        """Whatever is looked at in the block belongs to `key`, and is heard of from then on."""

    def forget(self, key: str) -> None: ...

    def take(self) -> Collection[str]:
        """The keys that somebody may have touched something of, since the last call; also keys of no thing at all."""

    @property
    def seconds_to_next(self) -> float | None:
        """When to `take` again; None: when there is news."""


class NoChanges:
    """Hears of nothing: full rounds find what others did."""

    seconds_to_next: float | None = None

    def recording(self, _key: str) -> AbstractContextManager[None]:
        return nullcontext()

    def forget(self, key: str) -> None: ...

    def take(self) -> Collection[str]:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReport:
    """What one round found and did. It ends up in the heartbeat."""

    resource_count: int
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    """Of all things, also of those that this round did not look at."""
    milliseconds: float = 0
    ended_at: datetime


class Reconciler(Generic[Wanted]):
    """Not for two threads at once."""

    def __init__(self, trade: ResourceHandler[Wanted], change_source: ChangeSource | None = None) -> None:
        self.change_source: ChangeSource = change_source or NoChanges()
        self._trade = trade
        self._seen: tuple[CloudView, int] | None = None
        """The view that `_wanted` is of, and its revision."""
        self._wanted: Mapping[str, Wanted] = {}
        self._tried: dict[str, Wanted | None] = {}
        """By thing that may be there: the wanted value that it was looked at for last; None: it could not be removed."""
        self._failures: dict[str, str] = {}
        self.completed_count = 0
        """How many looks at a thing ended, but for those that failed once more: it grows while there is progress. Any
        thread may read it."""

    @property
    def resource_count(self) -> int:
        """How many are wanted, as the last look saw it."""
        return len(self._wanted)

    @property
    def failing(self) -> frozenset[str]:
        """The ids of what failed when it was looked at last. `look` tries it again when its wanted value is new, when
        others touched it, or when it is told to.
        """
        return frozenset(self._failures.keys() - {self._trade.kind})

    def pids(self) -> frozenset[int]:
        return frozenset(self._trade.pids())

    def all_keys(self, view: CloudView) -> frozenset[str]:
        """The ids of all that is wanted, was made or is there. The settings may be new, so what is wanted is asked anew."""
        self._seen = None
        return frozenset({*self._wanted_in(view), *self._tried, *self._trade.actual()})

    def run_pass(self, view: CloudView, *, full: bool) -> PassReport:
        """`everything`: look at each thing, for what others did to it; else only at those whose wanted value is new,
        and at those that failed.
        """
        return self.reconcile(view, self.all_keys(view) if full else self.failing, cleanup=full)

    def reconcile(
        self, view: CloudView, also: Collection[str] = (), *, later: Collection[str] = (), cleanup: bool = False
    ) -> PassReport:
        """At the things whose wanted value is new, at those that others may have touched, and then at `also`. One of
        `later` that was never looked at is not new.
        """
        started = time.monotonic()
        wanted = self._wanted_in(view)
        in_turn = {*later, *also}
        new = [key for key, value in wanted.items() if self._is_new(key, value, in_turn)]
        changes: dict[str, tuple[str, ...]] = {}
        for key in dict.fromkeys([*new, *(key for key in (*self.change_source.take(), *also) if key in wanted)]):
            changes[key] = self._make(key, wanted[key])
        for key in sorted(self._gone(wanted, also)):
            changes[key] = self._remove(key, view)
        if cleanup:
            changes[self._trade.kind] = self._attempt(self._trade.kind, lambda: self._trade.cleanup(view))
        return PassReport(
            resource_count=len(wanted),
            changes={key: words for key, words in changes.items() if words},
            failures=dict(self._failures),
            milliseconds=round((time.monotonic() - started) * 1000, 1),
            ended_at=datetime.now(UTC),
        )

    def _wanted_in(self, view: CloudView) -> Mapping[str, Wanted]:
        """A view never changes; a value that is as it was looked at stays the same object, so that comparing it is quick."""
        seen = self._seen
        if seen is None or seen[0] is not view or seen[1] != view.revision:
            fresh = self._trade.desired(view)
            self._wanted = {key: self._known(key, value) for key, value in fresh.items()}
            self._seen = (view, view.revision)
        return self._wanted

    def _known(self, key: str, value: Wanted) -> Wanted:
        tried = self._tried.get(key)
        return tried if tried is not None and tried == value else value

    def _is_new(self, key: str, value: Wanted, in_turn: Collection[str]) -> bool:
        """But for what was never looked at and has its turn anyway."""
        return self._tried.get(key) is not value and (key in self._tried or key not in in_turn)

    def _gone(self, wanted: Mapping[str, Wanted], also: Collection[str]) -> set[str]:
        known = {key for key, tried in self._tried.items() if tried is not None}
        return (known | set(also)) - set(wanted)

    def _make(self, key: str, value: Wanted) -> tuple[str, ...]:
        with self.change_source.recording(key):
            words = self._step(key, lambda: self._trade.ensure(key, value))
        self._tried[key] = value
        return words

    def _remove(self, key: str, view: CloudView) -> tuple[str, ...]:
        words = self._step(key, lambda: self._trade.delete(key, view))
        if key in self._failures:
            self._tried[key] = None
        else:
            self._tried.pop(key, None)
            self.change_source.forget(key)
        return words

    def _step(self, key: str, work: Callable[[], Iterable[str]]) -> tuple[str, ...]:
        had_failed = key in self._failures
        words = self._attempt(key, work)
        if key not in self._failures or not had_failed:
            self.completed_count += 1
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


class CombinedError(Exception):
    """Some parts could not be made; the others were. The message has them all."""


class ErrorCollector:
    def __init__(self) -> None:
        self.changes: list[str] = []
        """What was done, in words."""
        self._failures: list[Exception] = []

    def do(self, work: Callable[[], Iterable[str]]) -> None:
        try:
            self.changes += work()
        except Exception as error:  # noqa: BLE001 - a thing's broken part must not keep its others from being served
            self._failures.append(error)

    def end(self) -> None:
        """Raises what the one failed step raised, or CombinedError with what all of them said."""
        if len(self._failures) == 1:
            raise self._failures[0]
        if self._failures:
            said = "; ".join(str(error) or type(error).__name__ for error in self._failures)
            raise CombinedError(said) from self._failures[0]
