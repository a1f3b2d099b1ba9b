"""`openimds metadata-agent`: joins the metadata agent with its socket, the pool, the mirror and the kernel."""

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
from openimds.agents.metadata.finder import Finder
from openimds.agents.metadata.haproxy_log import HaproxyLog
from openimds.agents.metadata.measures import Measures
from openimds.agents.metadata.self_test import run_self_test
from openimds.agents.metadata.service import MetadataService
from openimds.client.control import ControlClient
from openimds.client.mirror import Mirror
from openimds.client.session import connect
from openimds.config import ConfigError, MetadataAgentConfig
from openimds.daemons import metrics, notify
from openimds.daemons.agent_sockets import AgentSockets, open_sockets
from openimds.daemons.heartbeat import Heartbeat, Identity
from openimds.daemons.kept_sockets import KeptSockets
from openimds.daemons.metadata_upstream import NamespaceNeighbours, NeutronPorts, PooledUpstream, upstream_of
from openimds.daemons.request_log import BufferedRequestLog
from openimds.daemons.running import CannotStartError, begin
from openimds.daemons.workers import Parent, Work, run_workers
from openimds.http.client import Pool, PoolSettings
from openimds.http.listen import ListenError, tcp_listener
from openimds.http.rules import Limits
from openimds.http.server import GuestServer, Listener
from openimds.linux.kernel import Kernel
from openimds.linux.ledger import Ledger

KINDS = ("port",)
DRAIN_SECONDS = 5.0
IDLE_SECONDS = 2.0
"""While we stop, how long a proxy's idle connection may bring one more request. Who connects anew meanwhile waits."""
RENEWAL_SECONDS = 1.0
"""How often we look whether another service manager is there to keep our sockets."""
FIRST_VIEW_SECONDS = 5.0
"""How long the start waits for the mirror; without it, ports are asked for one by one."""
MAX_UPSTREAM_CONNECTIONS = 128
_LOOK_THREADS = 8
_BODY_BYTES = 256 * 1024

log = structlog.get_logger(__name__)


def run(config: MetadataAgentConfig) -> int:
    """Until SIGTERM. The exit code. Raises CannotStartError."""
    upstream_of(config)  # what is wrong with it is said here, once
    kept = KeptSockets.inherited()
    sockets = open_sockets(config, kept)
    if not config.shared_secret:
        log.warning("metadata_proxy_shared_secret is empty: anybody who reaches the metadata API can sign as we do")
    if config.workers > 1:
        return _run_workers(config, sockets, kept)
    with metrics.served(config.metrics):
        _Worker(config, sockets, 0).run(lambda: _tell_ready(config, kept), kept)
    return 0


def _run_workers(config: MetadataAgentConfig, sockets: AgentSockets, kept: KeptSockets) -> int:
    try:
        status = tcp_listener(config.metrics.host, config.metrics.port) if config.metrics else None
    except ListenError as error:
        raise CannotStartError(str(error)) from None
    parent = Parent(
        status=lambda registry: metrics.served_by_loop(registry, status, lambda: None),
        on_ready=lambda: _tell_ready(config, kept),
        on_look=kept.renew,
    )
    return run_workers(Work(function=_be_worker, arguments=(config, sockets), count=config.workers), parent)


def _be_worker(number: int, on_ready: Callable[[], None], config: MetadataAgentConfig, sockets: AgentSockets) -> None:
    """The whole life of one of several (workers.py). Its parent keeps the sockets."""
    begin(config)
    _Worker(config, sockets, number).run(on_ready, kept=None)


def _tell_ready(config: MetadataAgentConfig, kept: KeptSockets) -> None:
    kept.close_untaken()
    notify.ready(listens=str(config.socket_path), metadata_api=str(upstream_of(config)), workers=config.workers)


class _Worker:
    """One process: a mirror's thread, a heartbeat's, and the event loop that serves."""

    def __init__(self, config: MetadataAgentConfig, sockets: AgentSockets, number: int) -> None:
        self._config = config
        self._sockets = sockets
        self._upstream = upstream_of(config)
        self._is_first = number == 0
        self._client = ControlClient(connect(config.auth), region=config.auth.region_name)
        self._mirror = Mirror(self._client, KINDS)
        self._request_log = BufferedRequestLog(config.log, config.program)
        self._tasks: set[asyncio.Task[object]] = set()

    def run(self, on_ready: Callable[[], None], kept: KeptSockets | None) -> None:
        """Until SIGTERM or SIGINT. `kept`: where this very process has its sockets kept."""
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

    async def _serve(self, on_ready: Callable[[], None], kept: KeptSockets | None) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        pool = Pool(self._upstream, PoolSettings(max_connections=MAX_UPSTREAM_CONNECTIONS))
        executor = ThreadPoolExecutor(_LOOK_THREADS, "look")
        service = self._service(PooledUpstream(pool), executor)
        loop.add_signal_handler(signal.SIGHUP, self._reload, service)
        server = GuestServer(service.answer)
        await server.start([self._listener()])
        if self._is_first:
            self._start_aside(service, PooledUpstream(pool))
        if kept is not None:
            self._do_aside(_renew(kept))
        on_ready()
        await stopped.wait()
        if kept is not None:
            notify.stopping()
        for task in self._tasks:
            task.cancel()
        await server.stop(DRAIN_SECONDS, idle_seconds=IDLE_SECONDS)
        await pool.close()
        self._request_log.flush()
        executor.shutdown(wait=False, cancel_futures=True)

    def _service(self, upstream: PooledUpstream, executor: ThreadPoolExecutor) -> MetadataService:
        kernel = Kernel(Ledger(self._config.state_path / "owned"), self._config.namespace_prefix)
        finder = Finder(
            self._mirror,
            NeutronPorts(self._client),
            NamespaceNeighbours(kernel, self._config.namespace_prefix),
            executor=executor,
            clock=time.monotonic,
        )
        finder.refresh()
        return MetadataService(
            finder,
            upstream,
            secret=self._config.shared_secret,
            measures=Measures(REGISTRY),
            log=self._request_log,
            clock=time.monotonic,
        )

    def _listener(self) -> Listener:
        return Listener(
            socket=self._sockets.guests,
            tag="metadata_proxy",
            limits=Limits(body_bytes=_BODY_BYTES),
            backlog=self._config.backlog,
        )

    def _start_aside(self, service: MetadataService, upstream: PooledUpstream) -> None:
        datagrams = self._sockets.haproxy_log
        asyncio.get_running_loop().add_reader(datagrams, HaproxyLog(datagrams, self._request_log).read)
        self._do_aside(run_self_test(upstream, lambda: service.secret, service.complaints))

    def _do_aside(self, coming: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(coming)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reload(self, service: MetadataService) -> None:
        """The secret may change while we run; everything else takes a restart, which loses no request."""
        try:
            service.secret = configuration.load_metadata_agent(self._config.config_files).shared_secret
        except ConfigError as error:
            log.warning("the configuration was not read again", error=str(error))
        else:
            log.info("the configuration was read again; the shared secret is the one in it")

    def _facts(self) -> dict[str, object]:
        return {
            "nova_metadata": str(self._upstream),
            "metadata_proxy_socket": str(self._config.socket_path),
            "ports": len(self._mirror.view().ports),
        }


async def _renew(kept: KeptSockets) -> None:
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        await asyncio.to_thread(kept.renew)
