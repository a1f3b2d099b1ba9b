"""Many questions for single instances, asked together: a boot storm costs the control API few requests.

Who asks within WINDOW_SECONDS of another shares its request, and whoever asks for an instance that is on its way gets
that answer, if it was read after all that had been heard by then. Records fetched ahead wait here for the first who
asks; they are dropped with the first news that may concern them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import structlog

from openimds.resources.errors import NotOffered, StoreUnavailable
from openimds.resources.instance import ChangeSet, Instance

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

    def ask(self, instance_id: str) -> Future[Instance | None]:
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

    def fetch_ahead(self, instance_ids: Iterable[str]) -> None:
        """As many as there is room for; once news come, for until then nobody would say that a record is wrong."""
        with self._changed:
            self._wanted.update(dict.fromkeys(instance_ids))
            self._begin_ahead()

    def heard(self, touched: ChangeSet) -> None:
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

    def deaf(self) -> None:
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
