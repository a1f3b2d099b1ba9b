"""Compares the desired state with the actual state, one resource after the other, and corrects the differences.

Start, update, repair and cleanup after a crash run the same code. Events may be lost, repeated or reordered: an event
only triggers a comparison.

A failure of one resource, or of one part of a resource, does not stop the work on the others.
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
Desired = TypeVar("Desired")


class ResourceHandler(Protocol[Desired]):
    """Creates, updates and deletes the resources of one kind. The key of a resource is its id.

    Desired values are compared with `==`. A resource whose value is unchanged is reconciled only after a change on the
    host, after a failure, or in a full pass.
    """

    kind: str
    """The kind's name in logs: `network`, `router`."""

    def desired(self, view: CloudView) -> Mapping[str, Desired]: ...

    def actual(self) -> set[str]:
        """The keys of all resources of which this host has at least a part, such as a device or a process."""

    def ensure(self, key: str, desired: Desired) -> Iterable[str]:
        """Creates or updates a resource. Idempotent. Returns a description of each change.

        Does all parts, and then raises an error that names each part that failed.
        """

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        """Deletes a resource. Idempotent. Returns a description of each change."""

    def cleanup(self, view: CloudView) -> Iterable[str]:
        """Deletes leftovers that belong to no single resource. Runs once at the end of a resync."""

    def pids(self) -> Iterable[int]:
        """The PIDs of the programs that should be running. The exit of one of them triggers a pass."""


class ChangeSource(Protocol):
    """Reports changes that other programs made to the parts of a resource."""

    def recording(self, key: str) -> AbstractContextManager[None]:
        """Attributes everything that is read inside the block to `key`, and watches it from then on."""

    def forget(self, key: str) -> None: ...

    def take(self) -> Collection[str]:
        """Returns the keys that may have changed since the last call. Some of them may belong to no resource."""

    @property
    def seconds_to_next(self) -> float | None:
        """The time after which `take` is due; None if only an event makes it due."""


class NoChanges:
    """A ChangeSource without events. Only a resync finds changes made by other programs."""

    seconds_to_next: float | None = None

    def recording(self, _key: str) -> AbstractContextManager[None]:
        return nullcontext()

    def forget(self, key: str) -> None: ...

    def take(self) -> Collection[str]:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReport:
    """The result of one reconcile pass. The heartbeat contains it."""

    resource_count: int
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    """The error of each failing resource, including the resources that this pass skipped."""
    milliseconds: float = 0
    ended_at: datetime


class Reconciler(Generic[Desired]):
    """Runs reconcile passes. Not thread-safe."""

    def __init__(self, handler: ResourceHandler[Desired], change_source: ChangeSource | None = None) -> None:
        self.change_source: ChangeSource = change_source or NoChanges()
        self._handler = handler
        self._seen: tuple[CloudView, int] | None = None
        """The view from which `_desired` was derived, and its revision."""
        self._desired: Mapping[str, Desired] = {}
        self._attempted: dict[str, Desired | None] = {}
        """The desired value of the last attempt for each resource that may exist; None if its deletion failed."""
        self._failures: dict[str, str] = {}
        self._protected: frozenset[str] | None = None
        """Resources that existed before this process, while the view is not trusted; None while it is trusted."""
        self.completed_count = 0
        """The number of attempts, without repeated failures, so that it grows while there is progress. Any thread may
        read it."""

    @property
    def resource_count(self) -> int:
        """The number of desired resources in the last pass."""
        return len(self._desired)

    @property
    def failing(self) -> frozenset[str]:
        """The keys of the resources that failed at their last attempt.

        `reconcile` retries one of them when its desired value is new, when another program changed it, or when its key is
        passed.
        """
        return frozenset(self._failures.keys() - {self._handler.kind})

    def pids(self) -> frozenset[int]:
        return frozenset(self._handler.pids())

    def all_keys(self, view: CloudView) -> frozenset[str]:
        """The keys of all desired, attempted and actual resources.

        The desired state is derived again, because the settings may have changed.
        """
        self._seen = None
        return frozenset({*self._desired_in(view), *self._attempted, *self._handler.actual()})

    def run_pass(self, view: CloudView, *, full: bool) -> PassReport:
        """Reconciles every resource if `full`, and otherwise only new desired values and failing resources."""
        return self.reconcile(view, self.all_keys(view) if full else self.failing, cleanup=full)

    def reconcile(
        self, view: CloudView, keys: Collection[str] = (), *, pending: Collection[str] = (), cleanup: bool = False
    ) -> PassReport:
        """Reconciles resources with a new desired value, then resources that may have changed, and then `keys`.

        A resource of `pending` that has not been attempted yet does not count as new. If the view is not trusted, nothing
        is deleted, and resources from before this process stay as they are, because their desired state may be incomplete.
        """
        started = time.monotonic()
        desired = self._desired_in(view)
        self._protect_resources(view)
        scheduled = {*pending, *keys}
        new = [key for key, value in desired.items() if self._is_new(key, value, scheduled)]
        changes: dict[str, tuple[str, ...]] = {}
        for key in dict.fromkeys([*new, *(key for key in (*self.change_source.take(), *keys) if key in desired)]):
            changes[key] = self._ensure(key, desired[key])
        for key in sorted(self._undesired(desired, keys) if view.is_trusted else ()):
            changes[key] = self._delete(key, view)
        if cleanup and view.is_trusted:
            changes[self._handler.kind] = self._attempt(self._handler.kind, lambda: self._handler.cleanup(view))
        return PassReport(
            resource_count=len(desired),
            changes={key: descriptions for key, descriptions in changes.items() if descriptions},
            failures=dict(self._failures),
            milliseconds=round((time.monotonic() - started) * 1000, 1),
            ended_at=datetime.now(UTC),
        )

    def _desired_in(self, view: CloudView) -> Mapping[str, Desired]:
        """The desired state of a view. Views are immutable.

        A value that equals the last attempted one is the same object, so that comparing it is cheap.
        """
        seen = self._seen
        if seen is None or seen[0] is not view or seen[1] != view.revision:
            derived = self._handler.desired(view)
            self._desired = {key: self._interned(key, value) for key, value in derived.items()}
            self._seen = (view, view.revision)
        return self._desired

    def _interned(self, key: str, value: Desired) -> Desired:
        attempted = self._attempted.get(key)
        return attempted if attempted is not None and attempted == value else value

    def _is_new(self, key: str, value: Desired, scheduled: Collection[str]) -> bool:
        """Whether the value was not attempted yet. A scheduled resource that was never attempted waits for its slice."""
        return self._attempted.get(key) is not value and (key in self._attempted or key not in scheduled)

    def _undesired(self, desired: Mapping[str, Desired], keys: Collection[str]) -> set[str]:
        existing = {key for key, attempted in self._attempted.items() if attempted is not None}
        return (existing | set(keys)) - set(desired)

    def _protect_resources(self, view: CloudView) -> None:
        if not view.is_trusted:
            if self._protected is None:
                self._protected = frozenset(self._handler.actual() - self._attempted.keys())
        elif self._protected is not None:
            for key in self._protected:
                self._attempted.pop(key, None)
            self._protected = None

    def _ensure(self, key: str, value: Desired) -> tuple[str, ...]:
        if self._protected is not None and key in self._protected:
            self._attempted[key] = value
            return ()
        with self.change_source.recording(key):
            changes = self._step(key, lambda: self._handler.ensure(key, value))
        self._attempted[key] = value
        return changes

    def _delete(self, key: str, view: CloudView) -> tuple[str, ...]:
        changes = self._step(key, lambda: self._handler.delete(key, view))
        if key in self._failures:
            self._attempted[key] = None
        else:
            self._attempted.pop(key, None)
            self.change_source.forget(key)
        return changes

    def _step(self, key: str, work: Callable[[], Iterable[str]]) -> tuple[str, ...]:
        had_failed = key in self._failures
        changes = self._attempt(key, work)
        if key not in self._failures or not had_failed:
            self.completed_count += 1
        return changes

    def _attempt(self, key: str, work: Callable[[], Iterable[str]]) -> tuple[str, ...]:
        try:
            changes = tuple(work())
        except Exception as error:  # noqa: BLE001 - a failing resource must not stop the pass
            self._record_failure(key, error)
            return ()
        if self._failures.pop(key, None) is not None:
            logger.info("resource recovered", **{self._handler.kind: key})
        if changes:
            logger.info("resource changed", changes=list(changes), **{self._handler.kind: key})
        return changes

    def _record_failure(self, key: str, error: Exception) -> None:
        message = f"{error}" or type(error).__name__
        if self._failures.get(key) != message:
            is_programming_error = isinstance(error, (AttributeError, KeyError, TypeError, AssertionError))
            logger.warning(
                "resource reconcile failed",
                error=message,
                exc_info=is_programming_error,
                **{self._handler.kind: key},
            )
        self._failures[key] = message


class CombinedError(Exception):
    """Several parts of a resource failed. The message contains the message of each."""


class ErrorCollector:
    """Runs the steps of one resource. A failing step does not stop the steps after it."""

    def __init__(self) -> None:
        self.changes: list[str] = []
        """A description of each change."""
        self._errors: list[Exception] = []

    def run(self, step: Callable[[], Iterable[str]]) -> None:
        try:
            self.changes += step()
        except Exception as error:  # noqa: BLE001 - `raise_errors` raises it
            self._errors.append(error)

    def raise_errors(self) -> None:
        """Raises the error if one step failed, and CombinedError if several failed."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            messages = "; ".join(str(error) or type(error).__name__ for error in self._errors)
            raise CombinedError(messages) from self._errors[0]
