"""One process of the metadata agent: the threads of the mirror and the heartbeat, and the event loop that serves requests.

If there is only one process, it also listens in the namespaces (`metadata_proxy = direct`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog
import uvloop
from prometheus_client import REGISTRY

from openimds import config as configuration
from openimds.agents.metadata.handler import AgentDependencies, MetadataAgent
from openimds.agents.metadata.haproxy_log import HaproxyLog
from openimds.agents.metadata.lookup.resolver import LookupPolicy
from openimds.agents.metadata.metrics import Metrics, StalenessMonitor
from openimds.agents.metadata.signature_check import check_signature
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.client.cloud_check import CloudCheck
from openimds.client.control_client import ControlClient
from openimds.client.instance_records import GRACE_SECONDS, POLL_SECONDS, InstanceRecordSource, Prefetcher
from openimds.client.mirror import CloudMirror
from openimds.client.notifications import NotificationListener, NotificationsUnavailableError
from openimds.client.session import connect
from openimds.client.store_guard import SUSPENDED, StoreGuard
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
from openimds.resources.network import NotifiedChange
from openimds.runtime import sd_notify
from openimds.runtime.fdstore import FdStore
from openimds.runtime.heartbeat import Heartbeat, Identity
from openimds.runtime.metrics import CounterRate
from openimds.runtime.request_log import BufferedRequestLog

KINDS = ("port", "subnet")
DRAIN_SECONDS = 5.0
IDLE_SECONDS = 2.0
"""During the stop, the time in which an idle connection may send one more request. New connections wait in the queue."""
RENEWAL_SECONDS = 1.0
"""The interval of the checks for a new service manager that must keep the sockets."""
FIRST_VIEW_SECONDS = 5.0
"""The time that the start waits for the mirror. Without the mirror, each port needs a query."""
MAX_UPSTREAM_CONNECTIONS = 128
_QUERY_THREADS = 8
_LIMITS = Limits(body_bytes=256 * 1024)
_POLL_INTERVALS = PollIntervals(poll_seconds=0, away_seconds=POLL_SECONDS + GRACE_SECONDS, retry_seconds=1)

log = structlog.get_logger(__name__)


class MetadataAgentWorker:
    """Runs until SIGTERM or SIGINT. SIGHUP reloads the shared secret and the credentials."""

    def __init__(self, config: MetadataAgentConfig, sockets: AgentSockets, number: int) -> None:
        self._config = config
        self._sockets = sockets
        self._upstream = upstream_of(config)
        self._is_first = number == 0
        self._session = connect(config.auth, lambda: configuration.load_metadata_agent(config.config_files).auth)
        self._client = ControlClient(self._session, region=config.auth.region_name)
        guard = StoreGuard(config.state_path, "openimds-metadata-agent")
        self._mirror = CloudMirror(self._client, KINDS, poll_seconds=self._poll_seconds(), guard=guard)
        self._request_log = BufferedRequestLog(config.log, config.program)
        self._metrics = Metrics(REGISTRY)
        self._throttled_log = ThrottledLog(time.monotonic)
        self._request_rate = CounterRate("openimds_metadata_agent_requests")
        self._tasks: set[asyncio.Task[object]] = set()
        self._listening: DirectListeners | None = None
        self._notifications: NotificationListener | None = None
        self._number = number

    def run(self, on_ready: Callable[[], None], kept: FdStore | None) -> None:
        """`kept`: the store that keeps this process's sockets. None if the parent of several processes has it."""
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
        stopped = _stop_event()
        pool = Pool(self._upstream, PoolSettings(max_connections=MAX_UPSTREAM_CONNECTIONS))
        executor = ThreadPoolExecutor(_QUERY_THREADS, "query")
        agent = self._agent(PooledUpstream(pool), executor)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload, agent)
        server = HttpServer(
            agent.handle,
            connections=guest_connections(self._config.connections_per_guest),
            bans=agent.unknown_clients,
        )
        agent.start()
        self._start_notifications(agent)
        await server.start([self._listener()])
        await self._start_tasks(agent, PooledUpstream(pool), server, kept)
        on_ready()
        await stopped.wait()
        if kept is not None:
            sd_notify.stopping()
        for task in self._tasks:
            task.cancel()
        if self._listening is not None:
            await self._listening.stop()
        await server.stop(DRAIN_SECONDS, idle_seconds=IDLE_SECONDS)
        if self._notifications is not None:
            self._notifications.stop()
        agent.stop()
        await pool.close()
        self._request_log.flush()
        executor.shutdown(wait=False, cancel_futures=True)

    def _start_notifications(self, agent: MetadataAgent) -> None:
        """Subscribes to the notifications of Neutron and Nova, if they are configured."""
        config = self._config
        if not config.notifications_url:
            return
        loop = asyncio.get_running_loop()

        def on_changed(changed: NotifiedChange) -> None:
            loop.call_soon_threadsafe(agent.on_notified, changed)

        def on_live(are_live: bool) -> None:
            loop.call_soon_threadsafe(partial(agent.on_notifications, are_live=are_live))

        listener = NotificationListener(
            configuration.oslo_conf(config.config_files),
            transport_url=config.notifications_url,
            topics=config.notification_topics,
            name=f"openimds-metadata-agent-{config.host}-{self._number}",
            on_changed=on_changed,
            on_live=on_live,
        )
        try:
            listener.start()
        except NotificationsUnavailableError as error:
            log.warning("notifications not available", reason=str(error))
            return
        self._notifications = listener

    async def _start_tasks(
        self, agent: MetadataAgent, upstream: PooledUpstream, server: HttpServer, kept: FdStore | None
    ) -> None:
        if self._is_first:
            datagrams = self._sockets.haproxy_log
            asyncio.get_running_loop().add_reader(datagrams, HaproxyLog(datagrams, self._request_log).read)
            self._start_task(check_signature(upstream, lambda: agent.secret, self._throttled_log))
            self._start_task(self._check_cloud())
        self._start_task(StalenessMonitor(self._mirror, self._max_ages(), self._metrics).run())
        if kept is not None:
            self._listening = await start_direct(self._config.state_path, server, kept, _LIMITS)
            self._start_task(_renew(kept))

    async def _check_cloud(self) -> None:
        """Checks Keystone and Neutron until both respond, unless the mirror shows that they do."""
        check = CloudCheck(self._session, self._client, self._config.auth)
        while not self._mirror.connected:
            retry_seconds = await asyncio.to_thread(check.run)
            if retry_seconds is None:
                return
            await asyncio.sleep(retry_seconds)

    def _agent(self, upstream: PooledUpstream, executor: ThreadPoolExecutor) -> MetadataAgent:
        config = self._config
        source = InstanceRecordSource(
            self._session, region=config.auth.region_name, poll_seconds=self._poll_seconds(), view=self._mirror.view
        )
        self._mirror.subscribe(Prefetcher(config.host, source.prefetch).on_view)
        return MetadataAgent(
            AgentDependencies(
                host=config.host,
                mirror=self._mirror,
                ports=NeutronPorts(self._client),
                neighbours=self._neighbours(),
                source=source,
                intervals=_POLL_INTERVALS,
                upstream=upstream,
                shared_secret=config.shared_secret,
                strict_hosts=config.strict_hosts,
                rate_limit=rate_limit(config.rate_limit),
                executor=executor,
                metrics=self._metrics,
                throttled_log=self._throttled_log,
                request_log=self._request_log,
                proxied_policy=self._policy(config.max_staleness_seconds),
                direct_policy=self._policy(config.direct_max_staleness_seconds),
            )
        )

    def _policy(self, max_age_seconds: float) -> LookupPolicy:
        return LookupPolicy(found_seconds=self._config.lookup_cache_seconds, max_age_seconds=max_age_seconds)

    def _poll_seconds(self) -> float:
        """Returns an interval that is short enough for the smallest maximum age."""
        return min(POLL_SECONDS, min(self._max_ages().values()) / 4)

    def _max_ages(self) -> dict[str, float]:
        return {
            "metadata_max_staleness": self._config.max_staleness_seconds,
            "metadata_direct_max_staleness": self._config.direct_max_staleness_seconds,
        }

    def _neighbours(self) -> NamespaceNeighbours:
        kernel = NetworkConfigurator(OwnershipRecord(self._config.state_path / "owned"), self._config.namespace_prefix)
        return NamespaceNeighbours(kernel, self._config.namespace_prefix)

    def _listener(self) -> Listener:
        return Listener(socket=self._sockets.guests, tag="metadata_proxy", limits=_LIMITS, backlog=self._config.backlog)

    def _start_task(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reload(self, agent: MetadataAgent) -> None:
        """Reads the shared secret and the credentials again. Other options need a restart, which loses no request."""
        try:
            secret = configuration.load_metadata_agent(self._config.config_files).shared_secret
        except ConfigError as error:
            log.warning("metadata agent configuration reload failed", error=str(error))
            return
        self._client.retry_login()
        agent.reload(secret)
        log.info("metadata agent configuration reloaded: shared secret and credentials applied")

    def _facts(self) -> dict[str, object]:
        """Returns the facts of `openimds status` in the order of display."""
        listening = self._listening.listening if self._listening is not None else None
        return {
            "listeners": listening.listeners if listening is not None else 0,
            "listeners_wanted": listening.wanted if listening is not None else 0,
            "ports": len(self._mirror.view().ports),
            "requests_per_second": round(self._request_rate.per_second(), 1),
            "nova_metadata": str(self._upstream),
            "metadata_proxy_socket": str(self._config.socket_path),
            "suspended": "" if self._mirror.view().is_trusted else SUSPENDED,
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
    """Returns the connection limits for the option `connections_per_guest`, whose value 0 means no limit per client."""
    return ConnectionLimits(per_peer=per_guest or ConnectionLimits().total)


def _stop_event() -> asyncio.Event:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


async def _renew(kept: FdStore) -> None:
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        await asyncio.to_thread(kept.reregister)
