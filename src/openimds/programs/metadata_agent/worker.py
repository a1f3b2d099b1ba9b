"""One process of the metadata agent: a mirror's thread, a heartbeat's, and the event loop that serves.

The one process, where there are no others, also listens in the namespaces itself (`metadata_proxy = direct`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
import uvloop
from prometheus_client import REGISTRY

from openimds import config as configuration
from openimds.agents.metadata.direct_handler import DirectDependencies, DirectHandler
from openimds.agents.metadata.haproxy_log import HaproxyLog
from openimds.agents.metadata.lookup.policy import LookupPolicy
from openimds.agents.metadata.lookup.resolver import PortResolver
from openimds.agents.metadata.metrics import Metrics, StalenessMonitor
from openimds.agents.metadata.proxy.proxy_handler import ProxyHandler
from openimds.agents.metadata.signature_check import check_signature
from openimds.client.control_client import ControlClient
from openimds.client.instance_records import GRACE_SECONDS, POLL_SECONDS, InstanceRecordSource, Prefetcher
from openimds.client.mirror import CloudMirror
from openimds.client.session import connect
from openimds.config import ConfigError, MetadataAgentConfig
from openimds.config.settings import RateLimitOptions
from openimds.guest_identity.token_bucket import RateWindow
from openimds.http.client.pool import Pool, PoolSettings
from openimds.http.server.limits import ConnectionLimits, Limits
from openimds.http.server.server import HttpServer, Listener
from openimds.imds.invalidation import PollIntervals
from openimds.imds.rate_limit import RateLimit
from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.programs.metadata_agent.adapters import NamespaceNeighbours, NeutronPorts, PooledUpstream, upstream_of
from openimds.programs.metadata_agent.direct_listeners import DirectListeners, start_direct
from openimds.programs.metadata_agent.sockets import AgentSockets
from openimds.runtime import sd_notify
from openimds.runtime.fdstore import FdStore
from openimds.runtime.heartbeat import Heartbeat, Identity
from openimds.runtime.metrics import CounterRate
from openimds.runtime.request_log import BufferedRequestLog

KINDS = ("port", "subnet")
DRAIN_SECONDS = 5.0
IDLE_SECONDS = 2.0
"""While we stop, how long an idle connection may bring one more request. Who connects anew meanwhile waits."""
RENEWAL_SECONDS = 1.0
"""How often we look whether another service manager is there to keep our sockets."""
FIRST_VIEW_SECONDS = 5.0
"""How long the start waits for the mirror; without it, ports are asked for one by one."""
MAX_UPSTREAM_CONNECTIONS = 128
_LOOK_THREADS = 8
_LIMITS = Limits(body_bytes=256 * 1024)
_NEWS = PollIntervals(look_seconds=0, away_seconds=POLL_SECONDS + GRACE_SECONDS, retry_seconds=1)

log = structlog.get_logger(__name__)


class MetadataAgentWorker:
    """Until SIGTERM or SIGINT; SIGHUP reads the shared secret again."""

    def __init__(self, config: MetadataAgentConfig, sockets: AgentSockets, number: int) -> None:
        self._config = config
        self._sockets = sockets
        self._upstream = upstream_of(config)
        self._is_first = number == 0
        self._session = connect(config.auth)
        self._client = ControlClient(self._session, region=config.auth.region_name)
        self._mirror = CloudMirror(self._client, KINDS, poll_seconds=self._poll_seconds())
        self._request_log = BufferedRequestLog(config.log, config.program)
        self._measures = Metrics(REGISTRY)
        self._request_rate = CounterRate("openimds_metadata_agent_requests")
        self._tasks: set[asyncio.Task[object]] = set()
        self._listening: DirectListeners | None = None

    def run(self, on_ready: Callable[[], None], kept: FdStore | None) -> None:
        """`kept`: where this very process has its sockets kept; None: it is one of several, and its parent does that."""
        heartbeat = Heartbeat(
            self._client,
            Identity(binary="openimds-metadata-agent", host=self._config.host, agent_type="Metadata agent"),
            self._facts,
            self._config.report_interval_seconds,
        )
        self._mirror.start()
        self._mirror.wait_ready(FIRST_VIEW_SECONDS)
        if self._is_first:
            heartbeat.start()
        uvloop.run(self._serve(on_ready, kept))
        heartbeat.stop()
        self._mirror.stop()

    async def _serve(self, on_ready: Callable[[], None], kept: FdStore | None) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        pool = Pool(self._upstream, PoolSettings(max_connections=MAX_UPSTREAM_CONNECTIONS))
        executor = ThreadPoolExecutor(_LOOK_THREADS, "look")
        service = self._service(PooledUpstream(pool), executor)
        direct = self._direct(service, PooledUpstream(pool), executor) if kept is not None else None
        loop.add_signal_handler(signal.SIGHUP, self._reload, service, direct)
        server = HttpServer(
            service.answer if direct is None else direct.handler(otherwise=service.answer),
            connections=guest_connections(self._config.connections_per_guest),
            strangers=direct.strangers if direct is not None else None,
        )
        await server.start([self._listener()])
        if self._is_first:
            self._start_aside(service, PooledUpstream(pool))
        self._do_aside(StalenessMonitor(self._mirror, self._limits(), self._measures).follow())
        if direct is not None and kept is not None:
            direct.start()
            self._listening = await start_direct(self._config.state_path, server, kept, _LIMITS)
            self._do_aside(_renew(kept))
        on_ready()
        await stopped.wait()
        if kept is not None:
            sd_notify.stopping()
        for task in self._tasks:
            task.cancel()
        if self._listening is not None:
            await self._listening.stop()
        await server.stop(DRAIN_SECONDS, idle_seconds=IDLE_SECONDS)
        if direct is not None:
            direct.stop()
        await pool.close()
        self._request_log.flush()
        executor.shutdown(wait=False, cancel_futures=True)

    def _service(self, upstream: PooledUpstream, executor: ThreadPoolExecutor) -> ProxyHandler:
        finder = PortResolver(
            self._mirror,
            NeutronPorts(self._client),
            self._neighbours(),
            executor=executor,
            clock=time.monotonic,
            belief=self._belief(self._config.max_staleness_seconds),
        )
        finder.start()
        self._mirror.subscribe(finder.hear)
        return ProxyHandler(
            finder,
            upstream,
            secret=self._config.shared_secret,
            measures=self._measures,
            log=self._request_log,
            clock=time.monotonic,
        )

    def _direct(self, service: ProxyHandler, upstream: PooledUpstream, executor: ThreadPoolExecutor) -> DirectHandler:
        source = InstanceRecordSource(
            self._session, region=self._config.auth.region_name, poll_seconds=self._poll_seconds()
        )
        self._mirror.subscribe(Prefetcher(self._config.host, source.prefetch).on_view)
        return DirectHandler(
            DirectDependencies(
                mirror=self._mirror,
                ports=NeutronPorts(self._client),
                neighbours=self._neighbours(),
                source=source,
                pace=_NEWS,
                upstream=upstream,
                shared_secret=self._config.shared_secret,
                strict_hosts=self._config.strict_hosts,
                rate_limit=rate_limit(self._config.rate_limit),
                executor=executor,
                measures=self._measures,
                complaints=service.complaints,
                request_log=self._request_log,
                belief=self._belief(self._config.direct_max_staleness_seconds),
            )
        )

    def _belief(self, max_age_seconds: float) -> LookupPolicy:
        return LookupPolicy(found_seconds=self._config.lookup_cache_seconds, max_age_seconds=max_age_seconds)

    def _poll_seconds(self) -> float:
        """Often enough that what is kept up does not look too old between two polls."""
        return min(POLL_SECONDS, min(self._limits().values()) / 4)

    def _limits(self) -> dict[str, float]:
        return {
            "metadata_max_staleness": self._config.max_staleness_seconds,
            "metadata_direct_max_staleness": self._config.direct_max_staleness_seconds,
        }

    def _neighbours(self) -> NamespaceNeighbours:
        kernel = NetworkConfigurator(OwnershipRecord(self._config.state_path / "owned"), self._config.namespace_prefix)
        return NamespaceNeighbours(kernel, self._config.namespace_prefix)

    def _listener(self) -> Listener:
        return Listener(socket=self._sockets.guests, tag="metadata_proxy", limits=_LIMITS, backlog=self._config.backlog)

    def _start_aside(self, service: ProxyHandler, upstream: PooledUpstream) -> None:
        datagrams = self._sockets.haproxy_log
        asyncio.get_running_loop().add_reader(datagrams, HaproxyLog(datagrams, self._request_log).read)
        self._do_aside(check_signature(upstream, lambda: service.secret, service.complaints))

    def _do_aside(self, coming: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(coming)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reload(self, service: ProxyHandler, direct: DirectHandler | None) -> None:
        """The secret may change while we run; everything else takes a restart, which loses no request."""
        try:
            secret = configuration.load_metadata_agent(self._config.config_files).shared_secret
        except ConfigError as error:
            log.warning("metadata agent configuration reload failed", error=str(error))
            return
        service.secret = secret
        if direct is not None:
            direct.reload(secret)
        log.info("metadata agent configuration reloaded: shared secret applied")

    def _facts(self) -> dict[str, object]:
        """What `openimds status` shows first comes first."""
        listening = self._listening.listening if self._listening is not None else None
        return {
            "listeners": listening.listeners if listening is not None else 0,
            "listeners_wanted": listening.wanted if listening is not None else 0,
            "ports": len(self._mirror.view().ports),
            "requests_per_second": round(self._request_rate.per_second(), 1),
            "nova_metadata": str(self._upstream),
            "metadata_proxy_socket": str(self._config.socket_path),
            "listen_failures": dict(listening.failures) if listening is not None else {},
        }


def rate_limit(options: RateLimitOptions | None) -> RateLimit | None:
    """The limit of each port in direct mode. None if the option group is off."""
    if options is None:
        return None
    windows = (
        RateWindow(options.base_requests, options.base_window_seconds),
        RateWindow(options.burst_requests, options.burst_window_seconds),
    )
    return RateLimit(windows=windows, ip_versions=options.ip_versions)


def guest_connections(per_guest: int) -> ConnectionLimits:
    """By the option `connections_per_guest`: 0 is as many as there are."""
    return ConnectionLimits(per_peer=per_guest or ConnectionLimits().total)


async def _renew(kept: FdStore) -> None:
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        await asyncio.to_thread(kept.reregister)
