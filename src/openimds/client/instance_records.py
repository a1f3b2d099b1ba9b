"""Instances' records from the control API's extension (docs/design/watch.md), for an agent that answers guests itself.

Which instances' records to fetch before their guests ask: those with a port on this host that has just changed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import msgspec
import structlog
from keystoneauth1.session import Session

from openimds.client.batcher import BatchResult, RecordBatcher
from openimds.client.errors import ControlApiError, NoWatchError
from openimds.client.mirror import View
from openimds.client.rest import RestCall, RestClient
from openimds.metadata.context import DocumentSettings, settings_of
from openimds.resources.errors import NotOffered, StoreUnavailable
from openimds.resources.instance import ChangeSet, Instance
from openimds.resources.network import DEVICE_OWNER_COMPUTE_PREFIX, Port

log = structlog.get_logger(__name__)

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
        self._questions = RecordBatcher(self._fetch)
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
        self._questions.start()

    def close(self) -> None:
        self._questions.close()

    # Records ------------------------------------------------------------------------------------------------------

    def instance(self, instance_id: str) -> Instance | None:
        """Blocks. Questions of the same few milliseconds are one request."""
        try:
            return self._questions.ask(instance_id).result(2 * ANSWER_SECONDS)
        except FutureTimeoutError:
            raise StoreUnavailable(f"no record of instance {instance_id} within {2 * ANSWER_SECONDS:g} s") from None

    def ask(self, instance_id: str) -> Future[Instance | None]:
        """As `instance`, without a thread that waits."""
        return self._questions.ask(instance_id)

    def prefetch(self, instance_ids: Iterable[str]) -> None:
        """Does not wait: have these ready for the first who asks. Nothing is fetched while news do not come."""
        self._questions.fetch_ahead(instance_ids)

    # News ---------------------------------------------------------------------------------------------------------

    def newest(self) -> int:
        """Waits up to `poll_seconds` for something after what `after` told last; the newest revision."""
        self._news = self._poll(self._heard, self._poll_seconds)
        self._questions.heard(self._news)
        return self._news.revision

    def after(self, revision: int | None) -> ChangeSet:
        """What changed after `revision`; everything, when it is None or so far back."""
        news, self._news = self._news, None
        if news is None or revision is None or revision != self._heard:
            news = self._poll(revision, 0)
        self._heard = news.revision
        self._questions.heard(news)
        return news

    # Settings -----------------------------------------------------------------------------------------------------

    def settings(self) -> DocumentSettings:
        """What documents are rendered with. Asked once; news of it come with `newest`."""
        with self._settings_lock:
            if self._settings is None:
                self._fetch_settings()
            assert self._settings is not None
            return self._settings

    def follow_settings(self, callback: Callable[[DocumentSettings], None]) -> None:
        """Call this, in the thread that asks `newest`, whenever they have changed."""
        self._settings_heard.append(callback)

    # The calls ----------------------------------------------------------------------------------------------------

    def _fetch(self, instance_ids: Sequence[str]) -> BatchResult:
        call = RestCall(
            method="POST", path="/instances", body={"instance_ids": instance_ids}, timeout_seconds=ANSWER_SECONDS
        )
        answer = _decoded(_RECORDS, self._ask(call), "instances' records")
        return BatchResult(answer.revision, answer.instances)

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
            self._questions.deaf()
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
            return self._service.content(call)
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
    instances: dict[str, Instance | None]


class _Changes(msgspec.Struct):
    revision: int
    everything: bool
    instance_ids: list[str]
    port_ids: list[str]
    network_ids: list[str]
    settings: str


_RECORDS: msgspec.json.Decoder[_Records] = msgspec.json.Decoder(_Records)
_CHANGES: msgspec.json.Decoder[_Changes] = msgspec.json.Decoder(_Changes)


def _decoded(decoder: msgspec.json.Decoder[Any], content: bytes, what: str) -> Any:
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"the control API's answer with {what} cannot be read: {error}") from None


class Prefetch:
    """`mirror.subscribe(Prefetch(host, instances.prefetch).heard)`: the mirror's thread calls it with every new view."""

    def __init__(self, host: str, fetch_ahead: Callable[[Iterable[str]], None]) -> None:
        self._host = host
        self._fetch_ahead = fetch_ahead
        self._ports: Mapping[str, Port] = {}

    def heard(self, view: View) -> None:
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
