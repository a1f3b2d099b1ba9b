"""Joining what answers guests where the agent itself listens in their namespaces (`metadata_proxy = direct`).

direct = DirectService(DirectParts(…))
direct.start()                                          # from the event loop
GuestServer(direct.handler(otherwise=service.answer), strangers=direct.strangers)  # its listeners: direct_listening.py
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from openimds.agents.metadata.lookup.direct_resolver import DirectPortResolver, WatchedMirror
from openimds.agents.metadata.lookup.policy import LookupPolicy
from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.protocols import Neighbours, Ports, Upstream
from openimds.agents.metadata.proxy.forwarder import Forwarder
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.guest_identity.headers import REQUEST_ID
from openimds.http.messages import Handler, Request, Response, text_response
from openimds.imds.connection_authenticator import ConnectionAuthenticator, GuestRules
from openimds.imds.handler import MetadataHandler
from openimds.imds.instance_cache import InstanceCache
from openimds.imds.invalidation import ChangeFeed, ChangePoller, PollIntervals
from openimds.imds.rate_limit import PortRateLimiter, RateLimit, UnknownClientLimiter
from openimds.imds.request_log import REQUEST_ANSWERED, RequestLog, logged_path, new_request_id
from openimds.imds.session_tokens import TokenSettings
from openimds.metadata.context import DocumentSettings
from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import ChangeSet, Instance

log = structlog.get_logger(__name__)

_EVERYTHING = ChangeSet(revision=0, everything=True)
RECORD_THREADS = 64
"""That many instances' first requests are asked about together."""
_DIRECT = ("network:", "router:")
_MALFORMED = frozenset({400, 403, 405})
"""Answers to what was not worth looking up who asks."""
AGE_LOOK_SECONDS = 0.5
LEARN_PATIENCE_SECONDS = 1.0
"""How long a request waits for settings: a control API that is silent is asked for much longer than a guest waits."""
LEARN_SECONDS = 1.0
"""How long settings that could not be had are not asked for again."""


class Source(ChangeFeed, Protocol):
    """client.instances.RemoteInstances."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    def instance(self, instance_id: str) -> Instance | None: ...
    def settings(self) -> DocumentSettings: ...
    @property
    def age_seconds(self) -> float:
        """All news up to so long ago, or later, have been heard."""

    def subscribe_settings(self, callback: Callable[[DocumentSettings], None]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectDependencies:
    """What it is made of."""

    mirror: WatchedMirror
    ports: Ports
    neighbours: Neighbours
    source: Source
    pace: PollIntervals
    """Of the source's news."""
    upstream: Upstream
    shared_secret: str
    strict_hosts: tuple[str, ...] | None
    """The Hosts that guests may name, and nothing forwarded; None: whatever they send."""
    rate_limit: RateLimit | None
    executor: Executor
    """For looks at the control API and at neighbour tables."""
    measures: Metrics
    complaints: ThrottledLog
    request_log: RequestLog
    belief: LookupPolicy
    """Records are believed as long as who has an address."""


class DirectHandler:
    """`answer` is the HTTP server's handler. Of one event loop."""

    def __init__(self, parts: DirectDependencies) -> None:
        self._parts = parts
        self._secrets: tuple[str, ...] = (parts.shared_secret,)
        rate = parts.rate_limit
        self._rates = PortRateLimiter(rate, time.monotonic)
        self.strangers = UnknownClientLimiter(rate, time.monotonic)
        """Told here of malformed requests, and by the HTTP server of those that it could not even read."""
        self._identity = DirectPortResolver(
            parts.mirror,
            parts.ports,
            parts.neighbours,
            executor=parts.executor,
            clock=time.monotonic,
            belief=parts.belief,
            count=parts.measures.searched,
            tell=self.strangers.heard,
        )
        self._forwarding = Forwarder(
            parts.upstream,
            secret=parts.shared_secret,
            measures=parts.measures,
            complaints=parts.complaints,
            clock=time.monotonic,
        )
        self._threads = ThreadPoolExecutor(RECORD_THREADS, "record")
        self._records = InstanceCache(self._threads)
        self._freshness = ChangePoller(parts.source, self._records.forget, parts.pace)
        self._settings: DocumentSettings | None = None
        self._learning: asyncio.Task[None] | None = None
        self._learn_again_at = 0.0
        self._age_watch: asyncio.TimerHandle | None = None
        self._service = self._build()
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """From the event loop."""
        self._loop = asyncio.get_running_loop()
        self._identity.start()
        self._parts.source.subscribe_settings(self._hear)
        self._parts.source.start()
        self._freshness.start()
        self._begin_learning()
        self._watch_age()

    def stop(self) -> None:
        """Before the event loop ends."""
        if self._learning is not None:
            self._learning.cancel()
        if self._age_watch is not None:
            self._age_watch.cancel()
        self._freshness.stop()
        self._parts.source.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def reload(self, shared_secret: str) -> None:
        """Sign with this secret from now on. Tokens made with the one before stay good."""
        if shared_secret != self._secrets[0]:
            self._secrets = (shared_secret, self._secrets[0])
            self._forwarding.secret = shared_secret
            self._take_over()

    def handler(self, otherwise: Handler) -> Handler:
        """Answers requests from the namespaces' listeners itself, and has others answered by `otherwise`."""

        def handle(request: Request) -> Response | Awaitable[Response]:
            return self.answer(request) if request.listener.startswith(_DIRECT) else otherwise(request)

        return handle

    def answer(self, request: Request) -> Response | Awaitable[Response]:
        """At once where all is in memory. Never raises."""
        wait = self.strangers.wait_seconds(request.listener, request.mac, request.peer)
        if wait:
            return self._too_often(request, wait)
        response = self._service.serve(request) if self._settings is not None else self._learn_and_answer(request)
        if isinstance(response, Coroutine):
            return self._counted(request, response)
        return self._count(request, response)

    def _too_often(self, request: Request, wait: int) -> Response:
        """Its requests were malformed, or nobody's, too often."""
        kind, _, scope_id = request.listener.partition(":")
        request_id = new_request_id()
        facts: dict[str, object] = {
            f"{kind}_id": scope_id,
            "source": request.peer,
            "mac": request.mac or None,
            "method": request.method,
            "path": logged_path(request.target),
            "status": 429,
            "reason": "too many malformed requests, or of nobody's",
        }
        self._parts.request_log.line(REQUEST_ANSWERED, facts)(request_id, 0.0)
        self._parts.measures.answered(429)
        headers = ((b"Retry-After", b"%d" % wait), (REQUEST_ID.encode(), request_id.encode()))
        return text_response(429, "Too many requests. Try again later.", *headers)

    def _count(self, request: Request, response: Response) -> Response:
        self._parts.measures.answered(response.status)
        if response.status in _MALFORMED:
            self.strangers.refused(request.listener, request.mac, request.peer)
        return response

    async def _learn_and_answer(self, request: Request) -> Response:
        await self._learn()
        return await self._service.handle(request)

    async def _counted(self, request: Request, coming: Coroutine[Any, Any, Response]) -> Response:
        return self._count(request, await coming)

    def _build(self) -> MetadataHandler:
        parts = self._parts
        identification = ConnectionAuthenticator(
            self._identity,
            self._records,
            _Readable(parts.source, self._settings, parts.belief.max_age_seconds),
            self._forwarding,
            GuestRules(strict_hosts=parts.strict_hosts, rates=self._rates, strangers=self.strangers),
            time.monotonic,
        )
        return MetadataHandler(
            identification=identification,
            records=self._records,
            passwords=None,
            settings=self._settings or DocumentSettings(),
            executor=self._threads,
            request_log=parts.request_log,
            tokens=TokenSettings(secrets=tuple(filter(None, self._secrets)), is_behind_agent=False),
        )

    def _watch_age(self) -> None:
        """Records of which no news come for too long are forgotten: the metadata API is asked instead."""
        if self._parts.source.age_seconds > self._parts.belief.max_age_seconds:
            self._records.forget(_EVERYTHING)
        self._age_watch = self._loop.call_later(AGE_LOOK_SECONDS, self._watch_age)

    def _take_over(self) -> None:
        retired, self._service = self._service, self._build()
        retired.retire()

    async def _learn(self) -> None:
        """Have the settings that documents are rendered with, if they are soon to be had. Many wait for one question."""
        if self._learning is None:
            if time.monotonic() < self._learn_again_at:
                return
            self._begin_learning()
        if self._learning is not None:
            await asyncio.wait([self._learning], timeout=LEARN_PATIENCE_SECONDS)

    def _begin_learning(self) -> None:
        self._learning = asyncio.get_running_loop().create_task(self._ask_settings())

    async def _ask_settings(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._use(await loop.run_in_executor(self._threads, self._parts.source.settings))
        except StoreUnavailable as error:
            log.debug("the documents' settings are not to be had: requests are forwarded", reason=error.message)
            self._learn_again_at = time.monotonic() + LEARN_SECONDS
        finally:
            self._learning = None

    def _hear(self, settings: DocumentSettings) -> None:
        """In the source's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._use, settings)

    def _use(self, settings: DocumentSettings) -> None:
        if settings != self._settings:
            self._settings = settings
            self._take_over()


class _Readable:
    """Records, once it is known how to render them, and while it would be heard that they are wrong."""

    def __init__(self, source: Source, settings: DocumentSettings | None, max_age_seconds: float) -> None:
        self._source = source
        self._settings = settings
        self._max_age_seconds = max_age_seconds

    def instance(self, instance_id: str) -> Instance | None:
        if self._settings is None:
            raise StoreUnavailable("it is not known what documents are rendered with")
        if self._source.age_seconds > self._max_age_seconds:
            raise StoreUnavailable("nobody has told for too long what has changed")
        return self._source.instance(instance_id)
