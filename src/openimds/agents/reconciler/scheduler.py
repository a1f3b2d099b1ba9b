"""Starts reconcile passes: at each change, for a periodic resync, and for retries."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Generic

from openimds.agents.protocols import CloudMirror
from openimds.agents.reconciler.reconciler import Desired, PassReport, Reconciler

RETRY_SECONDS = 1.0
"""The pause between a failure and its first retry, and between two rounds of retries."""
SLICE_SIZE = 8
"""The number of resources that a resync reconciles before the next pass looks for new desired values."""
PAUSE_FACTOR = 9
"""The minimum pause after a resync, as a multiple of its duration: a resync takes at most a tenth of the time."""


class Scheduler(Generic[Desired]):
    """Starts a resync every `interval_seconds`, and runs it in slices.

    Each slice handles new desired values first, so that they do not wait for the end of a resync. A resync attempts each
    resource once. Failing resources are retried between resyncs, one in each pass.
    """

    def __init__(
        self,
        reconciler: Reconciler[Desired],
        mirror: CloudMirror,
        interval_seconds: float,
        watch: Callable[[Iterable[int]], None] = lambda _pids: None,
    ) -> None:
        """`watch` is called with the PIDs that should be running, after each pass that may have changed them."""
        self._reconciler = reconciler
        self._watch = watch
        self._mirror = mirror
        self._resync = _Resync(interval_seconds)
        self._retries = _RetryQueue()
        self._woken = threading.Event()
        self._stopping = False
        self._was_trusted = True
        self.last_report: PassReport | None = None
        """The report of the last pass. Replaced as a whole, so any thread may read it."""
        self.last_change: PassReport | None = None
        """The report of the last pass that changed something."""
        self.first_resync_done = threading.Event()
        self.resync_count = 0
        """The number of completed resyncs."""
        self.resync_milliseconds: float | None = None
        """The duration of the last completed resync."""

    @property
    def completed_count(self) -> int:
        """The same as Reconciler.completed_count."""
        return self._reconciler.completed_count

    @property
    def resource_count(self) -> int:
        return self._reconciler.resource_count

    def run(self) -> None:
        """Runs passes until `stop` is called."""
        self._mirror.subscribe(self._on_change)
        while not self._stopping:
            self._woken.clear()
            self._woken.wait(self._run_pass())

    def wake(self) -> None:
        """Starts a pass immediately. The change source calls this when it has changes."""
        self._woken.set()

    def request_resync(self) -> None:
        """Starts a resync immediately, after a reload of the settings or the loss of an event."""
        self._resync.is_due = True
        self._woken.set()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()

    def _run_pass(self) -> float:
        """Runs a pass, and returns the seconds to the next one. A view that is not loaded yet deletes nothing."""
        view = self._mirror.view()
        if view.revision < 0:
            return RETRY_SECONDS
        if view.is_trusted and not self._was_trusted:
            self._resync.is_due = True
        self._was_trusted = view.is_trusted
        if self._resync.should_begin():
            self._resync.begin(self._reconciler.all_keys(view))
        failing = self._reconciler.failing
        keys = self._resync.next_slice() if self._resync.is_under_way else self._retries.next_slice(failing)
        report = self._reconciler.reconcile(view, keys, pending=self._resync.pending, cleanup=self._resync.at_end)
        self.last_report = report
        if report.changes:
            self.last_change = report
        if report.changes or self._resync.at_end:
            self._watch(self._reconciler.pids())
        if self._resync.at_end:
            self._end_resync()
        changes_due = self._reconciler.change_source.seconds_to_next
        retry_due = self._retries.seconds_to_next(self._reconciler.failing)
        return min(self._resync.seconds_to_next(), retry_due, math.inf if changes_due is None else changes_due)

    def _end_resync(self) -> None:
        self.resync_milliseconds = round(self._resync.finish() * 1000, 1)
        self.resync_count += 1
        self._retries = _RetryQueue()
        self.first_resync_done.set()

    def _on_change(self, _view: object) -> None:
        self._woken.set()


class _Resync:
    """The progress of a resync, and the time of the next one."""

    def __init__(self, interval_seconds: float) -> None:
        self.is_due = True
        self._interval_seconds = interval_seconds
        self._queue: deque[str] | None = None
        """The keys of the next slices; None if no resync is under way."""
        self.pending: set[str] = set()
        """The keys that this resync has not attempted yet."""
        self._began = 0.0
        self._next = 0.0

    @property
    def is_under_way(self) -> bool:
        return self._queue is not None

    @property
    def at_end(self) -> bool:
        return self._queue is not None and not self._queue

    def should_begin(self) -> bool:
        return self.is_due or (self._queue is None and time.monotonic() >= self._next)

    def begin(self, keys: Iterable[str]) -> None:
        """Begins a resync. If another one is under way, its remaining keys come first, so that every key gets its turn."""
        self.is_due = False
        self.pending = set(keys)
        remaining = [key for key in self._queue or () if key in self.pending]
        self._queue = deque(dict.fromkeys([*remaining, *sorted(self.pending)]))
        self._began = time.monotonic()

    def next_slice(self) -> list[str]:
        queue = self._queue or deque()
        slice_ = [queue.popleft() for _ in range(min(SLICE_SIZE, len(queue)))]
        self.pending.difference_update(slice_)
        return slice_

    def finish(self) -> float:
        """Ends the resync, and returns its duration in seconds."""
        self._queue = None
        ended = time.monotonic()
        duration = ended - self._began
        self._next = ended + max(self._interval_seconds, duration * PAUSE_FACTOR)
        return duration

    def seconds_to_next(self) -> float:
        if self._queue is not None:
            return 0.0
        return max(0.0, self._next - time.monotonic())


class _RetryQueue:
    """Schedules the retries of failing resources, one in each pass, because new desired values wait for a slow retry."""

    def __init__(self) -> None:
        self._queue: deque[str] = deque()
        self._due: float | None = None
        """The time of the next round of retries; None if nothing fails or a round is under way."""

    def next_slice(self, failing: Collection[str]) -> list[str]:
        if self._due is not None and time.monotonic() >= self._due:
            self._queue, self._due = deque(sorted(failing)), None
        retried = [self._queue.popleft()] if self._queue else []
        return [key for key in retried if key in failing]

    def seconds_to_next(self, failing: Collection[str]) -> float:
        if self._queue:
            return 0.0
        if not failing:
            self._due = None
            return math.inf
        if self._due is None:
            self._due = time.monotonic() + RETRY_SECONDS
        return max(0.0, self._due - time.monotonic())
