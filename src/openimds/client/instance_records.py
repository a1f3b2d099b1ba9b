"""Fetches instance records from the control API (docs/design/watch.md), for the metadata agent.

- RecordBatcher combines the loads of single instances, so that a boot storm needs few requests. Loads within
  BATCH_WINDOW_SECONDS share a request, and loads of the same instance share a response, unless the response is older than
  a change that was received before the load. A prefetched record is used once, and dropped when a change affects it.
- InstanceRecordSource sends the requests, and polls the changes of records and of the settings.
- Prefetcher loads the records of ports on this host that have changed, before their instances send requests.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from keystoneauth1.session import Session

from openimds.client.errors import ControlApiError, NoWatchError
from openimds.client.mirror import CloudView
from openimds.client.rest import RestCall, RestClient
from openimds.client.store_guard import StoreRevision
from openimds.metadata.context import DocumentSettings, settings_from_json
from openimds.resources.errors import NotOffered, StoreUnavailable
from openimds.resources.instance import ChangeSet, Instance
from openimds.resources.network import DEVICE_OWNER_COMPUTE_PREFIX, Port

log = structlog.get_logger(__name__)

BATCH_WINDOW_SECONDS = 0.003
MAX_BATCH_SIZE = 200
"""The maximum number of ids in one request."""
MAX_PREFETCHED = 2000
"""The maximum number of prefetched and pending records."""
_WORKERS = 2
_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The response to a batch: None for an instance that does not exist, and no entry for a record that is malformed."""

    revision: int
    instances: Mapping[str, Instance | None]


@dataclass(slots=True, eq=False)
class _PendingLoad:
    min_revision: int
    """The minimum revision of the response: the newest change that was received before the load."""
    is_awaited: bool = False
    """Whether a caller waits. False for a prefetch."""
    attempts: int = 0
    future: Future[Instance | None] = field(default_factory=Future)


class RecordBatcher:
    """Combines loads into batches. Thread-safe. `fetch` takes up to MAX_BATCH_SIZE ids, and raises StoreUnavailable."""

    def __init__(self, fetch: Callable[[Sequence[str]], BatchResult]) -> None:
        self._fetch = fetch
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._revision = -1
        """The revision up to which all changes were received; -1 while no changes arrive."""
        self._queue: deque[str] = deque()
        self._pending: dict[str, _PendingLoad] = {}
        self._prefetched: dict[str, tuple[int, Instance]] = {}
        self._prefetch_queue: dict[str, None] = {}
        """The ids to prefetch as soon as changes arrive."""
        self._threads = [threading.Thread(target=self._run, name="records", daemon=True) for _ in range(_WORKERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stops the threads. Pending loads raise StoreUnavailable."""
        with self._changed:
            self._closed.set()
            remaining, self._pending = list(self._pending.values()), {}
            self._queue.clear()
            self._changed.notify_all()
        for pending in remaining:
            pending.future.set_exception(StoreUnavailable("the metadata agent is stopping"))

    def load(self, instance_id: str) -> Future[Instance | None]:
        """Loads a record. The future raises StoreUnavailable or NotOffered."""
        with self._changed:
            prefetched = self._prefetched.pop(instance_id, None)
            if prefetched is not None:
                future: Future[Instance | None] = Future()
                future.set_result(prefetched[1])
                return future
            pending = self._enqueue(instance_id)
            pending.is_awaited = True
            return pending.future

    def prefetch(self, instance_ids: Iterable[str]) -> None:
        """Prefetches up to MAX_PREFETCHED records, but only while changes arrive, because a change must invalidate them."""
        with self._changed:
            self._prefetch_queue.update(dict.fromkeys(instance_ids))
            self._start_prefetch()

    def on_changes(self, changes: ChangeSet) -> None:
        """Drops the prefetched records that the changes affect, and raises the minimum revision of later loads."""
        with self._changed:
            self._revision = changes.revision
            if changes.everything:
                self._prefetched.clear()
            elif not changes.is_empty:
                stale = [
                    key for key, (revision, record) in self._prefetched.items() if _affects(changes, revision, record)
                ]
                for key in stale:
                    del self._prefetched[key]
            self._start_prefetch()

    def on_feed_lost(self) -> None:
        """Drops all prefetched records, because no changes arrive. They are prefetched again after the next changes."""
        with self._changed:
            self._revision = -1
            self._prefetch_queue.update(dict.fromkeys(self._prefetched))
            self._prefetched.clear()

    def _start_prefetch(self) -> None:
        if self._revision < 0:
            return
        queued, self._prefetch_queue = self._prefetch_queue, {}
        for instance_id in queued:
            if len(self._prefetched) + len(self._pending) >= MAX_PREFETCHED:
                return
            if instance_id not in self._prefetched:
                self._enqueue(instance_id)

    def _enqueue(self, instance_id: str) -> _PendingLoad:
        pending = self._pending.get(instance_id)
        if pending is None:
            pending = self._pending[instance_id] = _PendingLoad(self._revision)
            self._queue.append(instance_id)
            self._changed.notify()
        pending.min_revision = max(pending.min_revision, self._revision)
        return pending

    def _run(self) -> None:
        while not self._closed.is_set():
            ids = self._next_ids()
            if not ids:
                continue
            try:
                result = self._fetch(ids)
            except StoreUnavailable as error:
                self._fail(ids, error)
            except Exception as error:
                log.exception("instance record request failed")
                self._fail(ids, StoreUnavailable(f"the instance records could not be read: {type(error).__name__}"))
            else:
                self._settle(ids, result)

    def _next_ids(self) -> list[str]:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed.is_set())
        self._closed.wait(BATCH_WINDOW_SECONDS)  # collects further loads
        with self._changed:
            return [self._queue.popleft() for _ in range(min(MAX_BATCH_SIZE, len(self._queue)))]

    def _fail(self, ids: Iterable[str], error: StoreUnavailable) -> None:
        with self._changed:
            failed = [self._pending.pop(instance_id, None) for instance_id in ids]
        for pending in failed:
            if pending is not None:
                pending.future.set_exception(error)

    def _settle(self, ids: Sequence[str], result: BatchResult) -> None:
        settled: list[tuple[str, _PendingLoad]] = []
        with self._changed:
            for instance_id in ids:
                pending = self._pending.get(instance_id)
                if pending is None:
                    continue
                pending.attempts += 1
                if result.revision < pending.min_revision and pending.attempts < _MAX_ATTEMPTS:
                    self._queue.append(instance_id)
                    self._changed.notify()
                    continue
                del self._pending[instance_id]
                settled.append((instance_id, pending))
                self._store_prefetched(instance_id, pending, result)
        for instance_id, pending in settled:
            _resolve(instance_id, pending, result)

    def _store_prefetched(self, instance_id: str, pending: _PendingLoad, result: BatchResult) -> None:
        instance = result.instances.get(instance_id)
        if pending.is_awaited or instance is None or not 0 <= self._revision <= result.revision:
            return
        self._prefetched[instance_id] = (result.revision, instance)


def _resolve(instance_id: str, pending: _PendingLoad, result: BatchResult) -> None:
    if result.revision < pending.min_revision:
        message = f"the record of instance {instance_id} is older (revision {result.revision}) than a received change"
        pending.future.set_exception(StoreUnavailable(message))
    elif instance_id not in result.instances:
        pending.future.set_exception(NotOffered(f"the control API sent no readable record of instance {instance_id}"))
    else:
        pending.future.set_result(result.instances[instance_id])


def _affects(changes: ChangeSet, revision: int, instance: Instance) -> bool:
    if revision >= changes.revision:
        return False
    return instance.id in changes.instance_ids or any(
        nic.port_id in changes.port_ids or nic.network_id in changes.network_ids for nic in instance.nics
    )


POLL_SECONDS = 10.0
"""The duration of a long poll for changes. A broken connection is noticed after GRACE_SECONDS more."""
GRACE_SECONDS = 5.0
RESPONSE_TIMEOUT_SECONDS = 5.0
"""The timeout of a request for records or settings."""
RETRY_NOT_OFFERED_SECONDS = 60.0
"""The time after which a cloud without instance records is queried again, because it may have been upgraded."""


class InstanceRecordSource:
    """The instance records of the control API. Call `start()` first. Thread-safe, except for `newest` and `after`.

    Methods raise StoreUnavailable. Its subclass NotOffered means that the cloud has no instance records, so that requests
    must be forwarded. One thread polls `newest` and `after`, as `imds.invalidation` does with `PollIntervals(poll_seconds=0,
    away_seconds=POLL_SECONDS + GRACE_SECONDS, retry_seconds=1)`.
    """

    def __init__(
        self,
        session: Session,
        *,
        region: str | None = None,
        poll_seconds: float = POLL_SECONDS,
        view: Callable[[], CloudView] = CloudView,
    ) -> None:
        """`view` returns the newest view of the mirror. While it is not trusted, changes invalidate no record."""
        self._service = RestClient(session, "instance-metadata", region=region)
        self._view = view
        self._last = StoreRevision("", -1)
        self._is_withholding = False
        """Whether changes were withheld. Every record is invalidated once the database is trusted."""
        self._suspended_by: CloudView | None = None
        """The view at the time when the database was replaced. Changes count again with a later, trusted view."""
        self._poll_seconds = poll_seconds
        self._batcher = RecordBatcher(self._fetch)
        self._changes: ChangeSet | None = None
        """The changes that the last poll received after `_revision`, until `after` returns them."""
        self._revision = -1
        self._settings_lock = threading.Lock()
        self._settings: DocumentSettings | None = None
        self._settings_digest = ""
        self._settings_callbacks: list[Callable[[DocumentSettings], None]] = []
        self._not_offered_until = 0.0
        self._current_at = time.monotonic()

    @property
    def age_seconds(self) -> float:
        """The maximum age of the state: all changes before this time were received."""
        return time.monotonic() - self._current_at

    def start(self) -> None:
        self._batcher.start()

    def close(self) -> None:
        self._batcher.close()

    # Records ------------------------------------------------------------------------------------------------------

    def instance(self, instance_id: str) -> Instance | None:
        """Loads a record. Blocks. Loads that start within a few milliseconds share one request."""
        timeout_seconds = 2 * RESPONSE_TIMEOUT_SECONDS
        try:
            return self._batcher.load(instance_id).result(timeout_seconds)
        except FutureTimeoutError:
            raise StoreUnavailable(f"no record of instance {instance_id} within {timeout_seconds:g} s") from None

    def instance_future(self, instance_id: str) -> Future[Instance | None]:
        """Loads a record without blocking."""
        return self._batcher.load(instance_id)

    def prefetch(self, instance_ids: Iterable[str]) -> None:
        """Prefetches records without blocking. Does nothing while changes do not arrive."""
        self._batcher.prefetch(instance_ids)

    # Changes ------------------------------------------------------------------------------------------------------

    def newest(self) -> int:
        """Waits up to `poll_seconds` for changes after those that `after` returned last. Returns the newest revision.

        Returns -1 while changes are withheld, so that the caller calls `after`.
        """
        self._changes = self._poll(self._revision, self._poll_seconds)
        self._batcher.on_changes(self._changes)
        return -1 if self._is_withholding else self._changes.revision

    def after(self, revision: int | None) -> ChangeSet:
        """The changes after `revision`. Everything counts as changed if `revision` is None or too old."""
        changes, self._changes = self._changes, None
        if changes is None or revision is None or revision != self._revision:
            changes = self._poll(revision, 0)
        self._revision = changes.revision
        if changes.everything:
            self._is_withholding = False
        self._batcher.on_changes(changes)
        return changes

    # Settings -----------------------------------------------------------------------------------------------------

    def settings(self) -> DocumentSettings:
        """The settings that documents are rendered with. Fetched once, and updated by `newest`."""
        with self._settings_lock:
            if self._settings is None:
                self._fetch_settings()
            assert self._settings is not None
            return self._settings

    def subscribe_settings(self, callback: Callable[[DocumentSettings], None]) -> None:
        """Calls `callback` after each change of the settings, on the thread that calls `newest`."""
        self._settings_callbacks.append(callback)

    # Requests -----------------------------------------------------------------------------------------------------

    def _fetch(self, instance_ids: Sequence[str]) -> BatchResult:
        call = RestCall(
            method="POST",
            path="/instances",
            body={"instance_ids": instance_ids},
            timeout_seconds=RESPONSE_TIMEOUT_SECONDS,
        )
        response = _decode(_RECORDS, self._request(call), "records")
        return BatchResult(response.revision, _instances(response.instances))

    def _poll(self, after: int | None, wait_seconds: float) -> ChangeSet:
        sent_at = time.monotonic()
        query = {"after": after, "timeout": f"{wait_seconds:g}", "settings": self._settings_digest or None}
        call = RestCall(
            method="GET", path="/instance_changes", query=query, timeout_seconds=wait_seconds + GRACE_SECONDS
        )
        try:
            response = _decode(_CHANGES, self._request(call), "changes")
            self._update_settings(response.settings)
        except StoreUnavailable:
            self._batcher.on_feed_lost()
            raise
        self._current_at = sent_at
        found = StoreRevision(response.store_id, response.revision, epoch=response.epoch)
        if self._is_suspended(found, response.known_epoch if after == self._last.revision else None):
            self._is_withholding = True
            return ChangeSet(revision=response.revision)
        return ChangeSet(
            revision=response.revision,
            everything=response.everything or self._is_withholding,
            instance_ids=frozenset(response.instance_ids),
            port_ids=frozenset(response.port_ids),
            network_ids=frozenset(response.network_ids),
        )

    def _is_suspended(self, found: StoreRevision, epoch_of_last: str | None) -> bool:
        """Whether the mirror has not accepted the database of a response."""
        view = self._view()
        is_replaced = self._last.store_id and found.store_id and not found.continues(self._last, epoch_of_last)
        self._last = found
        if is_replaced or not view.is_trusted:
            self._suspended_by = view
        elif view is not self._suspended_by:
            self._suspended_by = None
        return self._suspended_by is not None

    def _update_settings(self, digest: str) -> None:
        with self._settings_lock:
            if self._settings is None or digest == self._settings_digest:
                return
            self._fetch_settings()
            settings = self._settings
        log.info("document settings changed")
        for callback in self._settings_callbacks:
            callback(settings)

    def _fetch_settings(self) -> None:
        content = self._request(
            RestCall(method="GET", path="/guest_settings", timeout_seconds=RESPONSE_TIMEOUT_SECONDS)
        )
        try:
            response = json.loads(content)
            self._settings, self._settings_digest = settings_from_json(response["settings"]), str(response["digest"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreUnavailable(f"the document settings of the control API are malformed: {error!r}") from None

    def _request(self, call: RestCall) -> bytes:
        if time.monotonic() < self._not_offered_until:
            raise NotOffered(_NOT_OFFERED)
        try:
            return self._service.request(call)
        except NoWatchError as error:
            raise self._not_offered(str(error)) from None
        except ControlApiError as error:
            if error.status == 404:
                raise self._not_offered(str(error)) from None
            raise StoreUnavailable(str(error)) from None

    def _not_offered(self, reason: str) -> NotOffered:
        if not self._not_offered_until:
            log.warning("instance records not available: requests are forwarded", reason=reason)
        self._not_offered_until = time.monotonic() + RETRY_NOT_OFFERED_SECONDS
        return NotOffered(_NOT_OFFERED)


_NOT_OFFERED = "the control API of this cloud has no instance records"


class _Records(msgspec.Struct):
    revision: int
    instances: dict[str, msgspec.Raw]


class _Changes(msgspec.Struct):
    revision: int
    everything: bool
    instance_ids: list[str]
    port_ids: list[str]
    network_ids: list[str]
    settings: str
    store_id: str = ""
    epoch: str = ""
    known_epoch: str = ""


_RECORDS: msgspec.json.Decoder[_Records] = msgspec.json.Decoder(_Records)
_CHANGES: msgspec.json.Decoder[_Changes] = msgspec.json.Decoder(_Changes)
_INSTANCE: msgspec.json.Decoder[Instance | None] = msgspec.json.Decoder(Instance | None)


def _instances(records: Mapping[str, msgspec.Raw]) -> dict[str, Instance | None]:
    """The decoded records by id. A malformed record is skipped, so that its requests are forwarded to the metadata API."""
    instances: dict[str, Instance | None] = {}
    for instance_id, record in records.items():
        try:
            instances[instance_id] = _INSTANCE.decode(record)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("instance record decoding failed", instance_id=instance_id, reason=str(error))
    return instances


def _decode(decoder: msgspec.json.Decoder[Any], content: bytes, what: str) -> Any:
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"the control API's response with {what} is malformed: {error}") from None


class Prefetcher:
    """Prefetches the records of ports on this host that have changed. `on_view` is a subscriber of the mirror."""

    def __init__(self, host: str, prefetch: Callable[[Iterable[str]], None]) -> None:
        self._host = host
        self._prefetch = prefetch
        self._ports: Mapping[str, Port] = {}

    def on_view(self, view: CloudView) -> None:
        before, self._ports = self._ports, view.ports
        if view.ports is before:
            return
        instance_ids = {
            port.device_id
            for port_id, port in view.ports.items()
            if before.get(port_id) is not port and self._is_on_host(port)
        }
        if instance_ids:
            self._prefetch(instance_ids)

    def _is_on_host(self, port: Port) -> bool:
        return (
            port.host == self._host
            and bool(port.device_id)
            and port.device_owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX)
        )
