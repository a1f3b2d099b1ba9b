"""Dynamic vendor data: each target is asked about the instance, all at the same time.

Nobody waits for a target but those who ask it: every target has threads of its own, an end to patience that counts the
time spent waiting for one of them, and is asked once for all who want to know the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter

from openimds.metadata.outcome import MetadataError
from openimds.resources.errors import PeerFailed
from openimds.resources.instance import VendordataResponse

log = structlog.get_logger(__name__)

THREADS_OF_A_TARGET = 32
MAX_KEPT_ANSWERS = 10_000
MAX_KEPT_BYTES = 32 * 1024 * 1024

ANSWERS = Counter(
    "openimds_vendordata_answers",
    "Answers of dynamic vendor data targets by their kind: fresh, kept, failed.",
    ["target", "kind"],
)

PostQuestion = Callable[[str, Mapping[str, Any]], VendordataResponse]
"""(url, question) → the answer. Raises PeerFailed. Blocks."""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VendordataTimeouts:
    """How failures of targets are taken."""

    seconds: float = 10.0
    """From a question to its answer, the wait for a thread included."""
    failure_is_fatal: bool = False


class VendordataTargets:
    """All targets. Of one event loop."""

    def __init__(
        self, targets: Sequence[Target], post: PostQuestion, patience: VendordataTimeouts | None = None
    ) -> None:
        """Of two targets with one name the first counts."""
        patience = patience or VendordataTimeouts()
        named = {target.name: target for target in reversed(targets)}
        self._failure_is_fatal = patience.failure_is_fatal
        self._asked = [_Asked(target, post, patience.seconds) for target in reversed(named.values())]

    async def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What each said, under its name; `{}` for one that failed. Raises Refusal (503) when failures are fatal."""
        key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).digest()
        answers = await asyncio.gather(*(asked.answer(key, question) for asked in self._asked))
        failed = [asked.name for asked, answer in zip(self._asked, answers, strict=True) if answer is None]
        if failed and self._failure_is_fatal:
            sentence = f"The vendor data service {failed[0]} does not answer."
            raise MetadataError(503, sentence, (("Retry-After", "1"),))
        return {asked.name: _content(answer) for asked, answer in zip(self._asked, answers, strict=True)}


def _content(answer: VendordataResponse | None) -> Any:
    return {} if answer is None or answer.content is None else answer.content


class _Asked:
    """One target."""

    def __init__(self, target: Target, post: PostQuestion, patience_seconds: float) -> None:
        self.name = target.name
        self._url = target.url
        self._post = post
        self._patience_seconds = patience_seconds
        self._threads = ThreadPoolExecutor(THREADS_OF_A_TARGET, f"vendor-{target.name}")
        self._under_way: dict[bytes, asyncio.Task[VendordataResponse | None]] = {}
        self._kept = KeptAnswers()
        self._fails = False

    async def answer(self, key: bytes, question: Mapping[str, Any]) -> VendordataResponse | None:
        """None: it failed. `key` is the same for the same question."""
        kept = self._kept.get(key)
        if kept is not None:
            ANSWERS.labels(self.name, "kept").inc()
            return kept
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._fetch(key, question))
            task.add_done_callback(lambda _task: self._under_way.pop(key, None))
        return await asyncio.shield(task)  # whoever gives up does not take it from the others

    async def _fetch(self, key: bytes, question: Mapping[str, Any]) -> VendordataResponse | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._patience_seconds):  # a question still in the queue is taken out of it
                answer = await loop.run_in_executor(self._threads, self._post, self._url, question)
        except TimeoutError:
            self._note_failure(f"no answer within {self._patience_seconds:g} s")
            return None
        except PeerFailed as error:
            self._note_failure(error.message)
            return None
        self._note_success()
        self._kept.put(key, answer)
        return answer

    def _note_failure(self, reason: str) -> None:
        ANSWERS.labels(self.name, "failed").inc()
        if not self._fails:
            log.warning("a vendor data target fails", target=self.name, error=reason)
        self._fails = True

    def _note_success(self) -> None:
        ANSWERS.labels(self.name, "fresh").inc()
        if self._fails:
            log.info("a vendor data target works again", target=self.name)
        self._fails = False


class KeptAnswers:
    """One target's answers, each as long as the target allows; the ones not asked for go first when there are many."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, max_answers: int = MAX_KEPT_ANSWERS,
        max_bytes: int = MAX_KEPT_BYTES,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._answers: OrderedDict[bytes, tuple[float, VendordataResponse]] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> VendordataResponse | None:
        """None: there is none that may be told again."""
        until, answer = self._answers.get(key, (0.0, None))
        if answer is None:
            return None
        if self._clock() >= until:
            self._drop(key)
            return None
        self._answers.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: VendordataResponse) -> None:
        """Keep it, if it may be kept."""
        self._drop(key)
        if answer.fresh_seconds <= 0:
            return
        self._answers[key] = (self._clock() + answer.fresh_seconds, answer)
        self._bytes += answer.size_bytes
        while len(self._answers) > self._max_answers or self._bytes > self._max_bytes:
            self._drop(next(iter(self._answers)))

    def _drop(self, key: bytes) -> None:
        _until, answer = self._answers.pop(key, (0.0, None))
        self._bytes -= answer.size_bytes if answer else 0
