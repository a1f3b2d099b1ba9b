"""When rounds are made: at every change, once in a while for everything, and again for what failed."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Generic

from openimds.agents.protocols import CloudMirror
from openimds.agents.reconciler.reconciler import PassReport, Reconciler, Wanted

RETRY_SECONDS = 1.0
"""Between a failure, or the end of the tries after it, and the next try."""
SLICE_THINGS = 8
"""So many things of a full round are looked at before the next look at what is new."""
PAUSE_PER_WORK = 9


class Scheduler(Generic[Wanted]):
    """A full round begins every `interval_seconds`. It goes by slices, and what is new comes first in each, so that a
    host with many things serves a new one at once; and it takes a tenth of the time at most. It comes to each thing once,
    whether that fails or not: between full rounds failures are tried again, one at a time.
    """

    def __init__(
        self,
        rounds: Reconciler[Wanted],
        mirror: CloudMirror,
        interval_seconds: float,
        watch: Callable[[Iterable[int]], None] = lambda _pids: None,
    ) -> None:
        """`watch` is told after every round which processes should be running."""
        self._rounds = rounds
        self._watch = watch
        self._mirror = mirror
        self._full = _Resync(interval_seconds)
        self._retries = _RetryQueue()
        self._woken = threading.Event()
        self._stopping = False
        self.last_report: PassReport | None = None
        """Replaced whole: any thread may read it."""
        self.last_change: PassReport | None = None
        """The newest round that changed something."""
        self.first_resync_done = threading.Event()
        self.resync_count = 0
        """How many have ended."""
        self.resync_milliseconds: float | None = None
        """How long the last of them took."""

    @property
    def completed_count(self) -> int:
        """As `Rounds.steps`."""
        return self._rounds.completed_count

    @property
    def resource_count(self) -> int:
        return self._rounds.resource_count

    def run(self) -> None:
        """Until `stop`."""
        self._mirror.subscribe(self._on_change)
        while not self._stopping:
            self._woken.clear()
            self._woken.wait(self._round())

    def wake(self) -> None:
        """At once: the change_source have some."""
        self._woken.set()

    def request_resync(self) -> None:
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
            self._full.begin(self._rounds.all_keys(view))
        also = self._full.next_slice() if self._full.is_under_way else self._retries.next_slice(self._rounds.failing)
        report = self._rounds.reconcile(view, also, later=self._full.later, cleanup=self._full.at_end)
        self.last_report = report
        if report.changes:
            self.last_change = report
        if report.changes or self._full.at_end:
            self._watch(self._rounds.pids())
        if self._full.at_end:
            self._end_full_round()
        news = self._rounds.change_source.seconds_to_next
        retry = self._retries.seconds_to_next(self._rounds.failing)
        return min(self._full.seconds_to_next(), retry, math.inf if news is None else news)

    def _end_full_round(self) -> None:
        self.resync_milliseconds = round(self._full.finish() * 1000, 1)
        self.resync_count += 1
        self._retries = _RetryQueue()
        self.first_resync_done.set()

    def _on_change(self, _view: object) -> None:
        self._woken.set()


class _Resync:
    """How far a full round has come, and when the next one begins."""

    def __init__(self, interval_seconds: float) -> None:
        self.is_due = True
        self._interval_seconds = interval_seconds
        self._left: deque[str] | None = None
        """None: no full round is under way."""
        self.later: set[str] = set()
        """What this one has still to come to."""
        self._began = 0.0
        self._next = 0.0

    @property
    def is_under_way(self) -> bool:
        return self._left is not None

    @property
    def at_end(self) -> bool:
        return self._left is not None and not self._left

    def should_begin(self) -> bool:
        return self.is_due or (self._left is None and time.monotonic() >= self._next)

    def begin(self, keys: Iterable[str]) -> None:
        """One that begins before the end of another comes first to what that one had left, so that all have a turn."""
        self.is_due = False
        self.later = set(keys)
        left = [key for key in self._left or () if key in self.later]
        self._left = deque(dict.fromkeys([*left, *sorted(self.later)]))
        self._began = time.monotonic()

    def next_slice(self) -> list[str]:
        left = self._left or deque()
        slice_ = [left.popleft() for _ in range(min(SLICE_THINGS, len(left)))]
        self.later.difference_update(slice_)
        return slice_

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


class _RetryQueue:
    """What failed is tried again after a while. One at a time: it may fail slowly, and what is new waits for it."""

    def __init__(self) -> None:
        self._left: deque[str] = deque()
        self._due: float | None = None
        """When all that fails by then is tried again; None: nothing fails, or it is being tried."""

    def next_slice(self, failing: Collection[str]) -> list[str]:
        if self._due is not None and time.monotonic() >= self._due:
            self._left, self._due = deque(sorted(failing)), None
        tried = [self._left.popleft()] if self._left else []
        return [key for key in tried if key in failing]

    def seconds_to_next(self, failing: Collection[str]) -> float:
        if self._left:
            return 0.0
        if not failing:
            self._due = None
            return math.inf
        if self._due is None:
            self._due = time.monotonic() + RETRY_SECONDS
        return max(0.0, self._due - time.monotonic())
