"""Dynamic vendor data: sends a description of the instance to all targets at the same time.

A slow target delays only the requests for it. Each target has threads and a timeout of its own, which includes the wait
for a thread, and equal requests share one call.
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
MAX_CACHED_RESPONSES = 10_000
MAX_CACHED_BYTES = 32 * 1024 * 1024

ANSWERS = Counter(
    "openimds_vendordata_answers",
    "Responses of dynamic vendor data targets by their kind: fresh, kept, failed.",
    ["target", "kind"],
)

PostDocument = Callable[[str, Mapping[str, Any]], VendordataResponse]
"""Sends a JSON object to a URL, and returns the response. Blocks. Raises PeerFailed."""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VendordataTimeouts:
    """The timeout of a target, and the effect of its failures."""

    seconds: float = 10.0
    """The time of a call, including the wait for a thread."""
    failure_is_fatal: bool = False


class VendordataTargets:
    """All targets. Belongs to the event loop."""

    def __init__(
        self, targets: Sequence[Target], post: PostDocument, timeouts: VendordataTimeouts | None = None
    ) -> None:
        """If two targets have the same name, the first one is used."""
        timeouts = timeouts or VendordataTimeouts()
        named = {target.name: target for target in reversed(targets)}
        self._failure_is_fatal = timeouts.failure_is_fatal
        self._clients = [_TargetClient(target, post, timeouts.seconds) for target in reversed(named.values())]

    async def fetch(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the responses by target name, `{}` for a failed one. Raises MetadataError (503) if failures are fatal."""
        key = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()
        responses = await asyncio.gather(*(client.response(key, document) for client in self._clients))
        failed = [client.name for client, response in zip(self._clients, responses, strict=True) if response is None]
        if failed and self._failure_is_fatal:
            sentence = f"The vendor data service {failed[0]} does not answer."
            raise MetadataError(503, sentence, (("Retry-After", "1"),))
        return {client.name: _content(response) for client, response in zip(self._clients, responses, strict=True)}


def _content(response: VendordataResponse | None) -> Any:
    return {} if response is None or response.content is None else response.content


class _TargetClient:
    """One target."""

    def __init__(self, target: Target, post: PostDocument, timeout_seconds: float) -> None:
        self.name = target.name
        self._url = target.url
        self._post = post
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(THREADS_OF_A_TARGET, f"vendor-{target.name}")
        self._running: dict[bytes, asyncio.Task[VendordataResponse | None]] = {}
        self._cache = VendordataCache()
        self._fails = False

    async def response(self, key: bytes, document: Mapping[str, Any]) -> VendordataResponse | None:
        """Returns the response. None if the target failed. Equal documents have equal keys."""
        cached = self._cache.get(key)
        if cached is not None:
            ANSWERS.labels(self.name, "kept").inc()
            return cached
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._fetch(key, document))
            task.add_done_callback(lambda _task: self._running.pop(key, None))
        return await asyncio.shield(task)  # others may wait for a cancelled request

    async def _fetch(self, key: bytes, document: Mapping[str, Any]) -> VendordataResponse | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_seconds):  # a call that waits for a thread is cancelled
                response = await loop.run_in_executor(self._threads, self._post, self._url, document)
        except TimeoutError:
            self._note_failure(f"no answer within {self._timeout_seconds:g} s")
            return None
        except PeerFailed as error:
            self._note_failure(error.message)
            return None
        self._note_success()
        self._cache.put(key, response)
        return response

    def _note_failure(self, reason: str) -> None:
        ANSWERS.labels(self.name, "failed").inc()
        if not self._fails:
            log.warning("vendor data target failed", target=self.name, error=reason)
        self._fails = True

    def _note_success(self) -> None:
        ANSWERS.labels(self.name, "fresh").inc()
        if self._fails:
            log.info("vendor data target available again", target=self.name)
        self._fails = False


class VendordataCache:
    """The cached responses of one target, for the time that the target allows. The least recently used one is dropped."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, max_responses: int = MAX_CACHED_RESPONSES,
        max_bytes: int = MAX_CACHED_BYTES,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._responses: OrderedDict[bytes, tuple[float, VendordataResponse]] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> VendordataResponse | None:
        """Returns a response that is still valid, else None."""
        until, response = self._responses.get(key, (0.0, None))
        if response is None:
            return None
        if self._clock() >= until:
            self._drop(key)
            return None
        self._responses.move_to_end(key)
        return response

    def put(self, key: bytes, response: VendordataResponse) -> None:
        """Caches a response if the target allows it."""
        self._drop(key)
        if response.fresh_seconds <= 0:
            return
        self._responses[key] = (self._clock() + response.fresh_seconds, response)
        self._bytes += response.size_bytes
        while len(self._responses) > self._max_responses or self._bytes > self._max_bytes:
            self._drop(next(iter(self._responses)))

    def _drop(self, key: bytes) -> None:
        _until, response = self._responses.pop(key, (0.0, None))
        self._bytes -= response.size_bytes if response else 0
