"""`openimds metadata-agent`: joins the metadata agent with its socket, the pool, the mirror and the kernel."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

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
from openimds.daemons.forking import run_workers
from openimds.daemons.heartbeat import Heartbeat, Identity
from openimds.daemons.metadata_upstream import NamespaceNeighbours, NeutronPorts, PooledUpstream, upstream_of
from openimds.daemons.request_log import BufferedRequestLog
from openimds.daemons.running import CannotStartError
from openimds.daemons.socket_access import proxy_account, socket_access
from openimds.http.client import Pool, PoolSettings, Upstream
from openimds.http.listen import ListenError, UnixAccess, datagram_listener, unix_listener
from openimds.http.rules import Limits
from openimds.http.server import GuestServer, Listener
from openimds.linux.kernel import Kernel
from openimds.linux.ledger import Ledger

KINDS = ("port",)
DRAIN_SECONDS = 10.0
FIRST_VIEW_SECONDS = 5.0
"""How long the start waits for the mirror; without it, ports are asked for one by one."""
MAX_UPSTREAM_CONNECTIONS = 128
_LOOK_THREADS = 8
_BODY_BYTES = 256 * 1024
_LOG_QUEUE_BYTES = 1024 * 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Sockets:
    guests: socket.socket
    haproxy_log: socket.socket


def run(config: MetadataAgentConfig) -> int:
    """Until SIGTERM. The exit code. Raises CannotStartError."""
    upstream = upstream_of(config)
    sockets = _open_sockets(config)
    if not config.shared_secret:
        log.warning("metadata_proxy_shared_secret is empty: anybody who reaches the metadata API can sign as we do")
    return run_workers(config.workers, lambda number: _Worker(config, sockets, upstream, number).run())


class _Worker:
    """One process: a mirror's thread, a heartbeat's, and the event loop that serves."""

    def __init__(self, config: MetadataAgentConfig, sockets: _Sockets, upstream: Upstream, number: int) -> None:
        self._config = config
        self._sockets = sockets
        self._upstream = upstream
        self._is_first = number == 0
        self._number = number
        self._client = ControlClient(connect(config.auth), region=config.auth.region_name)
        self._mirror = Mirror(self._client, KINDS)
        self._request_log = BufferedRequestLog(config.log, config.program)
        self._tasks: set[asyncio.Task[int]] = set()

    def run(self) -> int:
        heartbeat = Heartbeat(
            self._client,
            Identity(binary="openimds-metadata-agent", host=self._config.host, agent_type="Metadata agent"),
            self._facts,
            self._config.report_interval_seconds,
        )
        listen = self._config.metrics
        if listen is not None and not self._is_first:
            listen = replace(listen, port=listen.port + self._number)  # each worker counts for itself
        with metrics.served(listen):
            self._mirror.start()
            self._mirror.wait_ready(FIRST_VIEW_SECONDS)
            if self._is_first:
                heartbeat.start()
            uvloop.run(self._serve())
            heartbeat.stop()
            self._mirror.stop()
        return 0

    async def _serve(self) -> None:
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
            await self._start_aside(service, PooledUpstream(pool))
            notify.ready(listens=str(self._config.socket_path), metadata_api=str(self._upstream))
        await stopped.wait()
        notify.stopping()
        for task in self._tasks:
            task.cancel()
        await server.stop(DRAIN_SECONDS)
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

    async def _start_aside(self, service: MetadataService, upstream: PooledUpstream) -> None:
        loop = asyncio.get_running_loop()
        datagrams = self._sockets.haproxy_log
        loop.add_reader(datagrams, HaproxyLog(datagrams, self._request_log).read)
        task = loop.create_task(run_self_test(upstream, lambda: service.secret, service.complaints))
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


def _open_sockets(config: MetadataAgentConfig) -> _Sockets:
    access = socket_access(config.socket_mode, proxy_account(config.proxy_user, config.proxy_group))
    # Who may log may only write: the same people, and nobody needs to read.
    log_access = UnixAccess(mode=access.mode & 0o622, user_id=access.user_id, group_id=access.group_id)
    try:
        config.socket_path.parent.mkdir(parents=True, exist_ok=True)
        guests = unix_listener(config.socket_path, access)
        haproxy_log = datagram_listener(config.haproxy_log_socket, log_access)
    except ListenError as error:
        raise CannotStartError(str(error)) from None
    except OSError as error:
        raise CannotStartError(f"cannot make {config.socket_path.parent}: {error.strerror}") from None
    haproxy_log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LOG_QUEUE_BYTES)
    haproxy_log.setblocking(False)
    return _Sockets(guests, haproxy_log)
