"""What a mirror knows, as one value.

A copy of what an agent needs to know, kept up by a thread: snapshot first, then the watch, for ever.

While the control API is away the last view stays; the thread goes on trying, and says once that it is lost and once
that it is back. How old the view may be is counted from when the question was asked that was answered last: whatever
held the answer up on its way, the view is no older than `age_seconds`.
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
from openimds.resources.network import FloatingIP, Network, Port, Router, Subnet
from openimds.resources.server import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudView:
    """The mirrored kinds at one revision, by id; kinds that are not mirrored are empty. Never changed in place."""

    revision: int = -1
    """-1: nothing is known yet."""
    networks: Mapping[str, Network] = field(default_factory=dict)
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    floating_ips: Mapping[str, FloatingIP] = field(default_factory=dict)
    servers: Mapping[str, Server] = field(default_factory=dict)


_FIELD_OF_KIND = {
    "network": "networks",
    "subnet": "subnets",
    "port": "ports",
    "router": "routers",
    "floatingip": "floating_ips",
    "server": "servers",
}


def view_from_snapshot(snapshot: Snapshot, before: CloudView) -> CloudView:
    """The view of a snapshot. An object that could not be decoded stays as it is in the view before."""
    tables: dict[str, Any] = {_FIELD_OF_KIND[kind]: dict(objects) for kind, objects in snapshot.objects.items()}
    for kind, object_id in snapshot.unreadable:
        name = _FIELD_OF_KIND[kind]
        known = getattr(before, name).get(object_id)
        if known is not None:
            tables[name][object_id] = known
    return CloudView(revision=snapshot.revision, **tables)


def apply_changes(view: CloudView, revision: int, changes: Iterable[Change]) -> CloudView:
    """The view after these changes. Tables that did not change, and values in those that did, stay the same objects."""
    tables: dict[str, dict[str, Any]] = {name: cast(Any, getattr(view, name)) for name in _FIELD_OF_KIND.values()}
    copied: set[str] = set()
    for change in changes:
        name = _FIELD_OF_KIND[change.kind]
        if name not in copied:
            tables[name] = dict(tables[name])
            copied.add(name)
        if change.object is None:
            tables[name].pop(change.id, None)
        else:
            tables[name][change.id] = change.object
    fields: dict[str, Any] = dict(tables)
    return CloudView(revision=revision, **fields)


_log = structlog.get_logger(__name__)

POLL_SECONDS = 25.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_NO_WATCH_PAUSE_SECONDS = 60.0
_STOP_LOOK_SECONDS = 0.02


class WatchClient(Protocol):
    """What a mirror asks of the control API (client.control.ControlClient)."""

    def snapshot(self, kinds: Sequence[str]) -> Snapshot: ...
    def changes(self, after: int, kinds: Sequence[str], timeout_seconds: float) -> Changes: ...


class CloudMirror:
    """`start()`, then `view()` from any thread."""

    def __init__(self, client: WatchClient, kinds: Sequence[str], *, poll_seconds: float = POLL_SECONDS) -> None:
        self._client = client
        self._kinds = tuple(kinds)
        self._poll_seconds = poll_seconds
        self._changed = threading.Condition()
        self._view = CloudView()
        self._stopping = threading.Event()
        self._polling = threading.Event()
        """Nobody is kept waiting by the thread, and it holds nothing."""
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._callbacks: list[Callable[[CloudView], None]] = []
        self._list_again = True
        self._failures = 0
        self._no_watch = False
        self._true_at = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 1.0) -> None:
        """Ask the thread to end, and wait a little if it is at work: a long poll under way ends with the process."""
        self._stopping.set()
        deadline = time.monotonic() + timeout_seconds
        while self._thread.is_alive() and self._thread is not threading.current_thread():
            if self._polling.is_set() or time.monotonic() >= deadline:
                return
            self._thread.join(_STOP_LOOK_SECONDS)

    def view(self) -> CloudView:
        """The newest view; its revision is -1 until the first snapshot."""
        return self._view

    def wait_ready(self, timeout: float) -> bool:
        """Wait for the first snapshot; False when it did not come within `timeout` seconds, or there is no watch."""
        with self._changed:
            self._changed.wait_for(lambda: self._view.revision >= 0 or self._no_watch, timeout)
        return self._view.revision >= 0

    def subscribe(self, callback: Callable[[CloudView], None]) -> None:
        """Call this with every new view, in the mirror's thread; with the present one at once if there is one."""
        self._callbacks.append(callback)
        if self._view.revision >= 0:
            callback(self._view)

    @property
    def connected(self) -> bool:
        """There is a view, and the newest attempt to keep it up did not fail."""
        return self._view.revision >= 0 and self._failures == 0 and not self._no_watch

    @property
    def age_seconds(self) -> float:
        """The view was whole so long ago, or later. Between two long polls it grows to twice their length."""
        return time.monotonic() - self._true_at

    @property
    def is_polling(self) -> bool:
        """A long poll is under way."""
        return self._polling.is_set()

    @property
    def watch_unavailable(self) -> bool:
        """The cloud has no watch: it must be asked question by question."""
        return self._no_watch

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except RevisionGoneError:
                self._list_again = True
            except NoWatchError as error:
                self._note_no_watch(error)
                self._stopping.wait(_NO_WATCH_PAUSE_SECONDS)
            except ControlApiError as error:
                self._note_lost(error)
                self._stopping.wait(self._pause_seconds())
            except Exception:  # noqa: BLE001
                # A mirror that ends silently would leave its agent with an old world for ever.
                _log.exception("the mirror met an error of its own; it lists again")
                self._list_again = True
                self._failures += 1
                self._stopping.wait(_LONGEST_PAUSE_SECONDS)

    def _step(self) -> None:
        asked_at = time.monotonic()
        if self._list_again:
            view = view_from_snapshot(self._client.snapshot(self._kinds), self._view)
            self._list_again = False
            self._publish(view, asked_at, differs=True)
            return
        answer = self._poll()
        if self._stopping.is_set():
            return
        self._publish(
            apply_changes(self._view, answer.revision, answer.changes), asked_at, differs=bool(answer.changes)
        )

    def _poll(self) -> Changes:
        self._polling.set()
        try:
            return self._client.changes(self._view.revision, self._kinds, self._poll_seconds)
        finally:
            self._polling.clear()

    def _publish(self, view: CloudView, asked_at: float, *, differs: bool) -> None:
        with self._changed:
            self._view = view
            self._true_at = asked_at
            self._changed.notify_all()
        self._note_heard()  # not before: until then the view that there was is not what the control API says
        if differs:
            for callback in self._callbacks:
                self._tell(callback, view)

    def _tell(self, callback: Callable[[CloudView], None], view: CloudView) -> None:
        try:
            callback(view)
        except Exception:  # noqa: BLE001 - one listener's error is not the mirror's
            _log.exception("somebody could not take a change", revision=view.revision)

    def _note_heard(self) -> None:
        self._no_watch = False
        if self._failures:
            _log.info("the control API is back", failures=self._failures)
        self._failures = 0

    def _note_lost(self, error: ControlApiError) -> None:
        self._failures += 1
        if self._failures == 1:
            _log.warning("the control API is lost; trying again for ever", error=str(error), known=self._view.revision)

    def _note_no_watch(self, error: NoWatchError) -> None:
        if not self._no_watch:
            _log.warning("this cloud has no watch; it is asked question by question", error=str(error))
        with self._changed:
            self._no_watch = True
            self._changed.notify_all()

    def _pause_seconds(self) -> float:
        return float(min(_FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE_SECONDS))
