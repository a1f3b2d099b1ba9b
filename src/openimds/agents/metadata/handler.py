"""The handler of the metadata agent's HTTP server, for both modes.

The metadata handler of `imds` handles each request. The modes differ only in the source of a request's origin and in
the limits that the agent enforces: in haproxy mode, the namespace proxy has enforced them already.

    agent = MetadataAgent(AgentDependencies(…))
    agent.start()                                              # from the event loop
    HttpServer(agent.handle, bans=agent.unknown_clients)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from openimds.agents.metadata.lookup.resolver import LookupPolicy, PortResolver
from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.origins import ConnectionOrigins, ProxyOrigins
from openimds.agents.metadata.port_authenticator import PortAuthenticator
from openimds.agents.metadata.protocols import Neighbours, PortMirror, Ports, Upstream
from openimds.agents.metadata.proxy.forwarder import Forwarder
from openimds.agents.metadata.records import InstanceRecords, RecordSource
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.guest_identity.port_index import AddressIndex, MacIndex
from openimds.http.messages import Request, Response
from openimds.imds.handler import MetadataHandler
from openimds.imds.invalidation import PollIntervals
from openimds.imds.metrics import METRICS
from openimds.imds.rate_limit import PortRateLimiter, RateLimit, UnknownClientLimiter
from openimds.imds.request_log import RequestLog
from openimds.imds.session_tokens import PreviousHop, TokenSettings
from openimds.metadata.context import DocumentSettings
from openimds.resources.network import NotifiedChange

_NAMESPACE_LISTENERS = ("network:", "router:")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDependencies:
    host: str
    """The host whose ports a cloud without a watch is asked for in advance (`binding:host_id`)."""
    mirror: PortMirror
    ports: Ports
    neighbours: Neighbours
    source: RecordSource
    intervals: PollIntervals
    """The polling of the source's changes."""
    upstream: Upstream
    shared_secret: str
    strict_hosts: tuple[str, ...] | None
    """In direct mode, the allowed values of Host; forwarded requests are rejected too. None if all are allowed."""
    rate_limit: RateLimit | None
    """The limit of each port, and of each client without a port, in direct mode."""
    executor: Executor
    """Runs queries to the control API and reads neighbour tables."""
    metrics: Metrics
    throttled_log: ThrottledLog
    request_log: RequestLog
    proxied_policy: LookupPolicy
    """The lookup policy of haproxy mode."""
    direct_policy: LookupPolicy
    """The lookup policy of direct mode. Its maximum age also applies to instance records."""


class MetadataAgent:
    """Belongs to the event loop."""

    def __init__(self, parts: AgentDependencies) -> None:
        self._parts = parts
        self._secrets: tuple[str, ...] = (parts.shared_secret,)
        rate = parts.rate_limit
        self._rates = PortRateLimiter(rate, time.monotonic) if rate is not None else None
        self.unknown_clients = UnknownClientLimiter(rate, time.monotonic) if rate is not None else None
        """None without a limit. The HTTP server adds the requests that it cannot parse."""
        self.records = InstanceRecords(parts.source, parts.intervals, parts.direct_policy.max_age_seconds)
        self._forwarder = Forwarder(
            parts.upstream,
            secret=parts.shared_secret,
            metrics=parts.metrics,
            throttled_log=parts.throttled_log,
            clock=time.monotonic,
        )
        self._direct = self._resolver(MacIndex(), parts.direct_policy)
        self._proxied = self._resolver(AddressIndex(), parts.proxied_policy)
        self._connections, self._proxies = ConnectionOrigins(parts.strict_hosts), ProxyOrigins()
        self._handlers = self._build()
        self.records.subscribe(self._replace_handlers)

    @property
    def secret(self) -> str:
        return self._secrets[0]

    def start(self) -> None:
        """Called from the event loop."""
        METRICS.on_responses = self._parts.metrics.count_responses
        self._direct.start()
        self._proxied.start()
        self.records.start()
        self._prefetch = asyncio.get_running_loop().create_task(self._proxied.prefetch_host(self._parts.host))

    def stop(self) -> None:
        """Called before the event loop ends."""
        METRICS.flush()
        METRICS.on_responses = None
        self._prefetch.cancel()
        self.records.stop()

    def on_notifications(self, *, are_live: bool) -> None:
        """Receives whether notifications of Neutron and Nova arrive. Called from the event loop."""
        self._parts.metrics.notifications_live.set(int(are_live))
        self._proxied.on_notifications(are_live=are_live)

    def on_notified(self, change: NotifiedChange) -> None:
        """Receives the resources that a notification names. Called from the event loop."""
        self._proxied.on_notified(change)

    def reload(self, shared_secret: str) -> None:
        """Signs with this secret from now on. Tokens of the previous secret stay valid."""
        if shared_secret != self._secrets[0]:
            self._secrets = (shared_secret, self._secrets[0])
            self._forwarder.secret = shared_secret
            self._replace_handlers()

    def handle(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """Returns the response, immediately if everything is in memory. Never raises."""
        if self.records.settings is None:
            return self._handle_with_settings(request)
        return self._handlers[request.listener.startswith(_NAMESPACE_LISTENERS)].serve(request)

    async def _handle_with_settings(self, request: Request) -> Response:
        await self.records.wait_for_settings()
        return await self._handlers[request.listener.startswith(_NAMESPACE_LISTENERS)].handle(request)

    def _resolver(self, index: AddressIndex | MacIndex, policy: LookupPolicy) -> PortResolver:
        parts = self._parts
        limiter = self.unknown_clients if index.requires_mac else None
        return PortResolver(
            index,
            parts.mirror,
            parts.ports,
            parts.neighbours,
            executor=parts.executor,
            clock=time.monotonic,
            policy=policy,
            is_eager=index.requires_mac,
            count=parts.metrics.count_lookup,
            on_touched=limiter.reset if limiter is not None else lambda _touched: None,
            throttled_log=parts.throttled_log,
        )

    def _replace_handlers(self) -> None:
        retired, self._handlers = self._handlers, self._build()
        for handler in retired:
            handler.retire()

    def _build(self) -> tuple[MetadataHandler, MetadataHandler]:
        """Returns the handlers of haproxy mode and of direct mode."""
        parts = self._parts
        proxied = PortAuthenticator(self._proxies, self._proxied, self.records, self._forwarder, None, parts.metrics)
        direct = PortAuthenticator(
            self._connections, self._direct, self.records, self._forwarder, self._rates, parts.metrics
        )
        return self._handler(proxied, PreviousHop.PROXY), self._handler(direct, PreviousHop.CLIENT)

    def _handler(self, authenticator: PortAuthenticator, hop: PreviousHop) -> MetadataHandler:
        return MetadataHandler(
            authenticator=authenticator,
            records=self.records.cache,
            passwords=None,
            settings=self.records.settings or DocumentSettings(),
            executor=self.records.threads,
            request_log=self._parts.request_log,
            tokens=TokenSettings(secrets=tuple(filter(None, self._secrets)), previous_hop=hop),
            unknown_clients=self.unknown_clients,
        )
