"""Many questions for single instances, asked together: a boot storm costs the control API few requests.

Who asks within WINDOW_SECONDS of another shares its request, and whoever asks for an instance that is on its way gets
that answer, if it was read after all that had been heard by then. Records fetched ahead wait here for the first who
asks; they are dropped with the first news that may concern them.

Instances' records from the control API's extension (docs/design/watch.md), for an agent that answers guests itself.

Which instances' records to fetch before their guests ask: those with a port on this host that has just changed.
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
from openimds.metadata.context import DocumentSettings, settings_of
from openimds.resources.errors import NotOffered, StoreUnavailable
from openimds.resources.instance import ChangeSet, Instance
from openimds.resources.network import DEVICE_OWNER_COMPUTE_PREFIX, Port

log = structlog.get_logger(__name__)

WINDOW_SECONDS = 0.003
MANY = 200
"""Ids in one request."""
MAX_AHEAD = 2000
"""Fetched ahead, or being fetched."""
_SENDERS = 2
_TRIES = 3


@dataclass(frozen=True, slots=True)
class BatchResult:
    """An answer of many: `instances` has None for those that are not there, and nothing for those it cannot tell."""

    revision: int
    instances: Mapping[str, Instance | None]


@dataclass(slots=True, eq=False)
class _Question:
    at_least: int
    """What was read before this revision is too old: who asks has heard of later things."""
    is_awaited: bool = False
    tries: int = 0
    answer: Future[Instance | None] = field(default_factory=Future)


class RecordBatcher:
    """Threads may share it. `fetch` takes ids, at most MANY, and raises StoreUnavailable."""

    def __init__(self, fetch: Callable[[Sequence[str]], BatchResult]) -> None:
        self._fetch = fetch
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._heard = -1
        """Of everything up to this revision it is known whom it concerns; -1: nobody listens."""
        self._waiting: deque[str] = deque()
        self._questions: dict[str, _Question] = {}
        self._ahead: dict[str, tuple[int, Instance]] = {}
        self._wanted: dict[str, None] = {}
        """To be fetched ahead once news come."""
        self._threads = [threading.Thread(target=self._run, name="records", daemon=True) for _ in range(_SENDERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Whoever still waits is told that it will not come."""
        with self._changed:
            self._closed.set()
            left, self._questions = list(self._questions.values()), {}
            self._waiting.clear()
            self._changed.notify_all()
        for question in left:
            question.answer.set_exception(StoreUnavailable("this program is about to end"))

    def load(self, instance_id: str) -> Future[Instance | None]:
        """The future raises StoreUnavailable, NotOffered."""
        with self._changed:
            ahead = self._ahead.pop(instance_id, None)
            if ahead is not None:
                known: Future[Instance | None] = Future()
                known.set_result(ahead[1])
                return known
            question = self._question(instance_id)
            question.is_awaited = True
            return question.answer

    def prefetch(self, instance_ids: Iterable[str]) -> None:
        """As many as there is room for; once news come, for until then nobody would say that a record is wrong."""
        with self._changed:
            self._wanted.update(dict.fromkeys(instance_ids))
            self._begin_ahead()

    def on_changes(self, touched: ChangeSet) -> None:
        """From now on nothing is told that was read before this."""
        with self._changed:
            self._heard = touched.revision
            if touched.everything:
                self._ahead.clear()
            elif not touched.is_nothing:
                old = [key for key, (read_at, it) in self._ahead.items() if _concerns(touched, read_at, it)]
                for key in old:
                    del self._ahead[key]
            self._begin_ahead()

    def on_feed_lost(self) -> None:
        """News do not come any more: what was fetched ahead may be wrong."""
        with self._changed:
            self._heard = -1
            self._wanted.update(dict.fromkeys(self._ahead))
            self._ahead.clear()

    def _begin_ahead(self) -> None:
        if self._heard < 0:
            return
        wanted, self._wanted = self._wanted, {}
        for instance_id in wanted:
            if len(self._ahead) + len(self._questions) >= MAX_AHEAD:
                return
            if instance_id not in self._ahead:
                self._question(instance_id)

    def _question(self, instance_id: str) -> _Question:
        question = self._questions.get(instance_id)
        if question is None:
            question = self._questions[instance_id] = _Question(self._heard)
            self._waiting.append(instance_id)
            self._changed.notify()
        question.at_least = max(question.at_least, self._heard)
        return question

    def _run(self) -> None:
        while not self._closed.is_set():
            ids = self._next_ids()
            if not ids:
                continue
            try:
                found = self._fetch(ids)
            except StoreUnavailable as error:
                self._fail(ids, error)
            except Exception as error:
                log.exception("instances' records could not be read")
                self._fail(ids, StoreUnavailable(f"instances' records could not be read: {type(error).__name__}"))
            else:
                self._settle(ids, found)

    def _next_ids(self) -> list[str]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed.is_set())
        self._closed.wait(WINDOW_SECONDS)  # others ask at the same moment
        with self._changed:
            return [self._waiting.popleft() for _ in range(min(MANY, len(self._waiting)))]

    def _fail(self, ids: Iterable[str], error: StoreUnavailable) -> None:
        with self._changed:
            failed = [self._questions.pop(instance_id, None) for instance_id in ids]
        for question in failed:
            if question is not None:
                question.answer.set_exception(error)

    def _settle(self, ids: Sequence[str], found: BatchResult) -> None:
        settled: list[tuple[str, _Question]] = []
        with self._changed:
            for instance_id in ids:
                question = self._questions.get(instance_id)
                if question is None:
                    continue
                question.tries += 1
                if found.revision < question.at_least and question.tries < _TRIES:
                    self._waiting.append(instance_id)
                    self._changed.notify()
                    continue
                del self._questions[instance_id]
                settled.append((instance_id, question))
                self._keep_ahead(instance_id, question, found)
        for instance_id, question in settled:
            _tell(instance_id, question, found)

    def _keep_ahead(self, instance_id: str, question: _Question, found: BatchResult) -> None:
        instance = found.instances.get(instance_id)
        if question.is_awaited or instance is None or not 0 <= self._heard <= found.revision:
            return
        self._ahead[instance_id] = (found.revision, instance)


def _tell(instance_id: str, question: _Question, found: BatchResult) -> None:
    if found.revision < question.at_least:
        sentence = f"the record of instance {instance_id} is of revision {found.revision}, and newer news are known"
        question.answer.set_exception(StoreUnavailable(sentence))
    elif instance_id not in found.instances:
        sentence = f"the control API cannot put the record of instance {instance_id} into words"
        question.answer.set_exception(NotOffered(sentence))
    else:
        question.answer.set_result(found.instances[instance_id])


def _concerns(touched: ChangeSet, read_at: int, instance: Instance) -> bool:
    if read_at >= touched.revision:
        return False
    return instance.id in touched.instance_ids or any(
        nic.port_id in touched.port_ids or nic.network_id in touched.network_ids for nic in instance.nics
    )


POLL_SECONDS = 10.0
"""How long the control API may keep a question for news: also the longest time until a line that was cut is noticed,
but for GRACE_SECONDS."""
GRACE_SECONDS = 5.0
ANSWER_SECONDS = 5.0
"""How long a question for records or settings may take."""
NOT_OFFERED_SECONDS = 60.0
"""A cloud without the extension is asked for it again after this time: it may have been upgraded."""


class InstanceRecordSource:
    """`start()`, then any thread may ask. Every question raises StoreUnavailable, or NotOffered (which is one) where the
    cloud has no such extension: then every request is to be forwarded.

    It is the `Changes` of web.guest.freshness with `Pace(look_seconds=0, away_seconds=POLL_SECONDS + GRACE_SECONDS,
    retry_seconds=1)`: one thread asks `newest` and `after`.
    """

    def __init__(self, session: Session, *, region: str | None = None, poll_seconds: float = POLL_SECONDS) -> None:
        self._service = RestClient(session, "instance-metadata", region=region)
        self._poll_seconds = poll_seconds
        self._batcher = RecordBatcher(self._fetch)
        self._news: ChangeSet | None = None
        """What the newest poll heard after revision `_heard`, until `after` is asked for it."""
        self._heard = -1
        self._settings_lock = threading.Lock()
        self._settings: DocumentSettings | None = None
        self._settings_digest = ""
        self._settings_heard: list[Callable[[DocumentSettings], None]] = []
        self._not_offered_until = 0.0
        self._true_at = time.monotonic()

    @property
    def age_seconds(self) -> float:
        """All news up to so long ago, or later, have been heard."""
        return time.monotonic() - self._true_at

    def start(self) -> None:
        self._batcher.start()

    def close(self) -> None:
        self._batcher.close()

    # Records ------------------------------------------------------------------------------------------------------

    def instance(self, instance_id: str) -> Instance | None:
        """Blocks. Questions of the same few milliseconds are one request."""
        try:
            return self._batcher.load(instance_id).result(2 * ANSWER_SECONDS)
        except FutureTimeoutError:
            raise StoreUnavailable(f"no record of instance {instance_id} within {2 * ANSWER_SECONDS:g} s") from None

    def instance_future(self, instance_id: str) -> Future[Instance | None]:
        """As `instance`, without a thread that waits."""
        return self._batcher.load(instance_id)

    def prefetch(self, instance_ids: Iterable[str]) -> None:
        """Does not wait: have these ready for the first who asks. Nothing is fetched while news do not come."""
        self._batcher.prefetch(instance_ids)

    # News ---------------------------------------------------------------------------------------------------------

    def newest(self) -> int:
        """Waits up to `poll_seconds` for something after what `after` told last; the newest revision."""
        self._news = self._poll(self._heard, self._poll_seconds)
        self._batcher.on_changes(self._news)
        return self._news.revision

    def after(self, revision: int | None) -> ChangeSet:
        """What changed after `revision`; everything, when it is None or so far back."""
        news, self._news = self._news, None
        if news is None or revision is None or revision != self._heard:
            news = self._poll(revision, 0)
        self._heard = news.revision
        self._batcher.on_changes(news)
        return news

    # Settings -----------------------------------------------------------------------------------------------------

    def settings(self) -> DocumentSettings:
        """What documents are rendered with. Asked once; news of it come with `newest`."""
        with self._settings_lock:
            if self._settings is None:
                self._fetch_settings()
            assert self._settings is not None
            return self._settings

    def subscribe_settings(self, callback: Callable[[DocumentSettings], None]) -> None:
        """Call this, in the thread that asks `newest`, whenever they have changed."""
        self._settings_heard.append(callback)

    # The calls ----------------------------------------------------------------------------------------------------

    def _fetch(self, instance_ids: Sequence[str]) -> BatchResult:
        call = RestCall(
            method="POST", path="/instances", body={"instance_ids": instance_ids}, timeout_seconds=ANSWER_SECONDS
        )
        answer = _decoded(_RECORDS, self._ask(call), "instances' records")
        return BatchResult(answer.revision, _instances(answer.instances))

    def _poll(self, after: int | None, wait_seconds: float) -> ChangeSet:
        asked_at = time.monotonic()
        query = {"after": after, "timeout": f"{wait_seconds:g}", "settings": self._settings_digest or None}
        call = RestCall(
            method="GET", path="/instance_changes", query=query, timeout_seconds=wait_seconds + GRACE_SECONDS
        )
        try:
            answer = _decoded(_CHANGES, self._ask(call), "instances' changes")
            self._heed_settings(answer.settings)
        except StoreUnavailable:
            self._batcher.on_feed_lost()
            raise
        self._true_at = asked_at
        return ChangeSet(
            revision=answer.revision,
            everything=answer.everything,
            instance_ids=frozenset(answer.instance_ids),
            port_ids=frozenset(answer.port_ids),
            network_ids=frozenset(answer.network_ids),
        )

    def _heed_settings(self, digest: str) -> None:
        with self._settings_lock:
            if self._settings is None or digest == self._settings_digest:
                return
            self._fetch_settings()
            settings = self._settings
        log.info("the settings that documents are rendered with have changed")
        for callback in self._settings_heard:
            callback(settings)

    def _fetch_settings(self) -> None:
        content = self._ask(RestCall(method="GET", path="/guest_settings", timeout_seconds=ANSWER_SECONDS))
        try:
            answer = json.loads(content)
            self._settings, self._settings_digest = settings_of(answer["settings"]), str(answer["digest"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreUnavailable(f"the control API's guest settings cannot be read: {error!r}") from None

    def _ask(self, call: RestCall) -> bytes:
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
            log.warning("this cloud tells no instances' records: guests' requests are forwarded", reason=reason)
        self._not_offered_until = time.monotonic() + NOT_OFFERED_SECONDS
        return NotOffered(_NOT_OFFERED)


_NOT_OFFERED = "this cloud's control API tells no instances' records"


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


_RECORDS: msgspec.json.Decoder[_Records] = msgspec.json.Decoder(_Records)
_CHANGES: msgspec.json.Decoder[_Changes] = msgspec.json.Decoder(_Changes)
_INSTANCE: msgspec.json.Decoder[Instance | None] = msgspec.json.Decoder(Instance | None)


def _instances(records: Mapping[str, msgspec.Raw]) -> dict[str, Instance | None]:
    """By id. A record that cannot be decoded is left out, so that its requests are forwarded to the metadata API."""
    found: dict[str, Instance | None] = {}
    for instance_id, record in records.items():
        try:
            found[instance_id] = _INSTANCE.decode(record)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("instance record decoding failed", instance_id=instance_id, reason=str(error))
    return found


def _decoded(decoder: msgspec.json.Decoder[Any], content: bytes, what: str) -> Any:
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"the control API's answer with {what} cannot be read: {error}") from None


class Prefetcher:
    """`mirror.subscribe(Prefetcher(host, instances.prefetch).heard)`: the mirror's thread calls it with every new view."""

    def __init__(self, host: str, fetch_ahead: Callable[[Iterable[str]], None]) -> None:
        self._host = host
        self._fetch_ahead = fetch_ahead
        self._ports: Mapping[str, Port] = {}

    def on_view(self, view: CloudView) -> None:
        before, self._ports = self._ports, view.ports
        if view.ports is before:
            return
        wanted = {
            port.device_id
            for port_id, port in view.ports.items()
            if before.get(port_id) is not port and self._is_ours(port)
        }
        if wanted:
            self._fetch_ahead(wanted)

    def _is_ours(self, port: Port) -> bool:
        return (
            port.host == self._host
            and bool(port.device_id)
            and port.device_owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX)
        )
