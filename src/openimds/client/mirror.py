"""A copy of the cloud state that an agent needs. A thread fetches a snapshot and then follows the watch.

While the control API is unreachable, the last view stays and the thread retries. The thread logs once that the control
API became unreachable, and once that it is reachable again. The age of the view counts from the moment when the last
successful request was sent, so the view is never older than `age_seconds`, however slow the response was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import structlog

from openimds.client.control_client import Change, Changes, Snapshot
from openimds.client.errors import ControlApiError, NoWatchError, RevisionGoneError
from openimds.client.store_guard import SUSPENDED, StoreRevision
from openimds.resources.network import FloatingIP, Network, Port, Router, Subnet
from openimds.resources.server import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudView:
    """The objects of the mirrored kinds at one revision, by id. Other kinds are empty. Immutable."""

    revision: int = -1
    """The revision; -1 before the first snapshot."""
    networks: Mapping[str, Network] = field(default_factory=dict)
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    floating_ips: Mapping[str, FloatingIP] = field(default_factory=dict)
    servers: Mapping[str, Server] = field(default_factory=dict)
    is_trusted: bool = True
    """False after the database was replaced or restored from an older copy. Agents then remove nothing."""


_FIELD_OF_KIND = {
    "network": "networks",
    "subnet": "subnets",
    "port": "ports",
    "router": "routers",
    "floatingip": "floating_ips",
    "server": "servers",
}


def view_from_snapshot(snapshot: Snapshot, before: CloudView, *, is_trusted: bool = True) -> CloudView:
    """The view of a snapshot. An object that could not be decoded keeps its value of the view before.

    If the snapshot is not trusted, all objects of the view before keep their values.
    """
    tables: dict[str, Any] = {_FIELD_OF_KIND[kind]: dict(objects) for kind, objects in snapshot.objects.items()}
    for kind, object_id in snapshot.unreadable:
        name = _FIELD_OF_KIND[kind]
        previous = getattr(before, name).get(object_id)
        if previous is not None:
            tables[name][object_id] = previous
    if not is_trusted:
        tables = {name: {**objects, **getattr(before, name)} for name, objects in tables.items()}
    return CloudView(revision=snapshot.revision, is_trusted=is_trusted, **tables)


def apply_changes(view: CloudView, revision: int, changes: Iterable[Change]) -> CloudView:
    """The view after the changes. Tables and values that did not change are the same objects.

    An untrusted view keeps deleted objects.
    """
    tables: dict[str, dict[str, Any]] = {name: cast(Any, getattr(view, name)) for name in _FIELD_OF_KIND.values()}
    copied: set[str] = set()
    for change in changes:
        name = _FIELD_OF_KIND[change.kind]
        if name not in copied:
            tables[name] = dict(tables[name])
            copied.add(name)
        if change.object is None:
            if view.is_trusted:
                tables[name].pop(change.id, None)
        else:
            tables[name][change.id] = change.object
    fields: dict[str, Any] = dict(tables)
    return CloudView(revision=revision, is_trusted=view.is_trusted, **fields)


_log = structlog.get_logger(__name__)

POLL_SECONDS = 25.0
UNTRUSTED_POLL_SECONDS = 2.0
"""The duration of a long poll while the view is not trusted. After each one the mirror looks for the acceptance."""
_MIN_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 5.0
_NO_WATCH_PAUSE_SECONDS = 60.0
_STOP_POLL_SECONDS = 0.02


class WatchClient(Protocol):
    """The calls of ControlClient that a mirror uses."""

    def snapshot(self, kinds: Sequence[str], known_revision: int | None) -> Snapshot: ...
    def changes(
        self, after: int, kinds: Sequence[str], timeout_seconds: float, store_id: str, epoch: str
    ) -> Changes: ...
    def forget_catalog(self) -> None: ...


class DatabaseGuard(Protocol):
    """The calls of StoreGuard that a mirror uses."""

    @property
    def is_forgotten(self) -> bool: ...
    def recorded(self) -> StoreRevision | None: ...
    def accepts(self, snapshot: StoreRevision, known: StoreRevision | None, known_epoch: str | None = None) -> bool: ...
    def record(self, newest: StoreRevision) -> None: ...


class CloudMirror:
    """A mirror of the cloud state. After `start()`, any thread may call `view()`."""

    def __init__(
        self,
        client: WatchClient,
        kinds: Sequence[str],
        *,
        poll_seconds: float = POLL_SECONDS,
        guard: DatabaseGuard | None = None,
        requires_watch: bool = False,
    ) -> None:
        """Without a guard every snapshot is trusted.

        `requires_watch`: nothing replaces the watch. The catalog is fetched again before each attempt.
        """
        self._client = client
        self._requires_watch = requires_watch
        self._guard = guard
        self._store_id = self._epoch = ""
        self._kinds = tuple(kinds)
        self._poll_seconds = poll_seconds
        self._changed = threading.Condition()
        self._view = CloudView()
        self._stopping = threading.Event()
        self._polling = threading.Event()
        """Set while the thread waits for a response and holds no lock."""
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._callbacks: list[Callable[[CloudView], None]] = []
        self._needs_snapshot = True
        self._failures = 0
        self._no_watch = False
        self._current_at = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 1.0) -> None:
        """Stops the thread. Waits up to `timeout_seconds`, but not for a long poll, which ends with the process."""
        self._stopping.set()
        deadline = time.monotonic() + timeout_seconds
        while self._thread.is_alive() and self._thread is not threading.current_thread():
            if self._polling.is_set() or time.monotonic() >= deadline:
                return
            self._thread.join(_STOP_POLL_SECONDS)

    def view(self) -> CloudView:
        """The newest view; its revision is -1 until the first snapshot."""
        return self._view

    def wait_ready(self, timeout: float) -> bool:
        """Waits for the first snapshot. Returns False after `timeout` seconds, or if the cloud has no watch."""
        with self._changed:
            self._changed.wait_for(lambda: self._view.revision >= 0 or self._no_watch, timeout)
        return self._view.revision >= 0

    def subscribe(self, callback: Callable[[CloudView], None]) -> None:
        """Calls `callback` with each new view, on the mirror's thread.

        If there is a view already, calls `callback` with it immediately, on the calling thread.
        """
        self._callbacks.append(callback)
        if self._view.revision >= 0:
            callback(self._view)

    @property
    def connected(self) -> bool:
        """Whether there is a view and the last request succeeded."""
        return self._view.revision >= 0 and self._failures == 0 and not self._no_watch

    @property
    def age_seconds(self) -> float:
        """The maximum age of the view. It grows up to twice the duration of a long poll."""
        return time.monotonic() - self._current_at

    @property
    def is_polling(self) -> bool:
        """Whether a long poll is under way."""
        return self._polling.is_set()

    @property
    def watch_unavailable(self) -> bool:
        """Whether the cloud has no watch, so that callers must query Neutron instead."""
        return self._no_watch

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except RevisionGoneError:
                self._needs_snapshot = True
            except NoWatchError as error:
                self._on_no_watch(error)
                self._stopping.wait(_NO_WATCH_PAUSE_SECONDS)
                if self._requires_watch:
                    self._client.forget_catalog()
            except ControlApiError as error:
                self._on_connection_lost(error)
                self._stopping.wait(self._pause_seconds())
            except Exception:  # noqa: BLE001
                # If the thread ended, the agent would use an outdated view without end.
                _log.exception("mirror update failed")
                self._needs_snapshot = True
                self._failures += 1
                self._stopping.wait(_MAX_PAUSE_SECONDS)

    def _step(self) -> None:
        sent_at = time.monotonic()
        if not self._view.is_trusted and self._guard is not None and self._guard.is_forgotten:
            self._needs_snapshot = True
        if self._needs_snapshot:
            self._publish(self._load(), sent_at, differs=True)
            return
        changes = self._poll()
        if self._stopping.is_set():
            return
        self._publish(
            apply_changes(self._view, changes.revision, changes.changes), sent_at, differs=bool(changes.changes)
        )
        self._epoch = changes.epoch
        if self._guard is not None and self._view.is_trusted:
            self._guard.record(StoreRevision(self._store_id, changes.revision, epoch=changes.epoch))

    def _load(self) -> CloudView:
        known = self._guard.recorded() if self._guard is not None else None
        snapshot = self._client.snapshot(self._kinds, known.revision if known is not None else None)
        self._store_id, self._epoch = snapshot.store_id, snapshot.epoch
        found = StoreRevision(snapshot.store_id, snapshot.revision, epoch=snapshot.epoch)
        is_trusted = self._guard is None or self._guard.accepts(found, known, snapshot.known_epoch)
        if is_trusted != self._view.is_trusted:
            if is_trusted:
                _log.info("database accepted; removals resumed", revision=snapshot.revision)
            else:
                _log.warning("database replaced; removals suspended", revision=snapshot.revision, reason=SUSPENDED)
        view = view_from_snapshot(snapshot, self._view, is_trusted=is_trusted)
        self._needs_snapshot = False
        return view

    def _poll(self) -> Changes:
        seconds = self._poll_seconds if self._view.is_trusted else min(self._poll_seconds, UNTRUSTED_POLL_SECONDS)
        self._polling.set()
        try:
            return self._client.changes(self._view.revision, self._kinds, seconds, self._store_id, self._epoch)
        finally:
            self._polling.clear()

    def _publish(self, view: CloudView, sent_at: float, *, differs: bool) -> None:
        with self._changed:
            self._view = view
            self._current_at = sent_at
            self._changed.notify_all()
        self._on_success()  # after the assignment, because `connected` states that the view is current
        if differs:
            for callback in self._callbacks:
                self._notify(callback, view)

    def _notify(self, callback: Callable[[CloudView], None], view: CloudView) -> None:
        try:
            callback(view)
        except Exception:  # noqa: BLE001 - a subscriber's error must not stop the mirror
            _log.exception("mirror subscriber raised an exception", revision=view.revision)

    def _on_success(self) -> None:
        self._no_watch = False
        if self._failures:
            _log.info("control API connection restored", failures=self._failures)
        self._failures = 0

    def _on_connection_lost(self, error: ControlApiError) -> None:
        self._failures += 1
        if self._failures == 1:
            _log.warning("control API connection lost", error=str(error), revision=self._view.revision)

    def _on_no_watch(self, error: NoWatchError) -> None:
        if not self._no_watch:
            replacement = "the last view" if self._requires_watch else "Neutron is queried for each request"
            _log.warning("watch not available", error=str(error), replacement=replacement)
        with self._changed:
            self._no_watch = True
            self._changed.notify_all()

    def _pause_seconds(self) -> float:
        return float(min(_MIN_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10), _MAX_PAUSE_SECONDS))
