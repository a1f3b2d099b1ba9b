"""One process of the metadata API: event loop, handler and HTTP server."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog
import uvloop
from prometheus_client import REGISTRY

from openimds import config as configuration
from openimds.config import ConfigError, MetadataApiConfig
from openimds.http.messages import Request, Response
from openimds.http.server.limits import ConnectionLimits, Limits
from openimds.http.server.server import HttpServer, Listener
from openimds.imds.metrics import METRICS
from openimds.programs.metadata_api.tls import load_certificate, server_context
from openimds.programs.metadata_api.wiring import ServiceConfig, WorkerState, build_service, plan_service
from openimds.programs.vendordata_file import StaticVendorData
from openimds.runtime import sd_notify
from openimds.runtime.lifecycle import StartupError, begin
from openimds.runtime.metrics import StatusPages
from openimds.runtime.request_log import BufferedRequestLog
from openimds.store.raw.database import Database

log = structlog.get_logger(__name__)

DRAIN_SECONDS = 5.0
SWITCH_SECONDS = 0.0005
"""The time after which a thread that reads from the store gets the interpreter from a busy event loop. With Python's
default of 5 ms, uncached instances would wait for cached ones in a boot storm."""

LIMITS = Limits(header_bytes=65 * 1024)
"""The header size that the usual front ends of Nova accept."""


def be_worker(_number: int, on_ready: Callable[[], None], config: MetadataApiConfig, listener: socket.socket) -> None:
    """Runs one of several workers."""
    begin(config)
    worker = MetadataApiWorker(config, plan_service(config), listener, None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(worker.serve(on_ready=on_ready))


class MetadataApiWorker:
    """Serves `listener`, and `metrics` if it is not None, until SIGTERM or SIGINT."""

    def __init__(
        self, config: MetadataApiConfig, plan: ServiceConfig, listener: socket.socket, metrics: socket.socket | None
    ) -> None:
        self._config = config
        self._plan = plan
        self._listener = listener
        self._metrics = metrics
        self._database = Database(config.database_url)
        self._memory = WorkerState(self._database)
        self._request_log = BufferedRequestLog(config.log, config.program)
        self._service = build_service(plan, self._memory, self._request_log)
        self._vendor_watch: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._tls = server_context(config.tls)

    async def serve(self, on_ready: Callable[[], None]) -> None:
        """Runs until SIGTERM or SIGINT. SIGHUP reloads the configuration: secrets, vendor data, domain, certificate."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._memory.freshness.start()
        server = HttpServer(self._handle, connections=self._connections())
        await server.start([Listener(socket=self._listener, tag="tcp", limits=LIMITS, tls=self._tls)])
        pages = await self._serve_status()
        self._handle_signals()
        self._follow_vendor_file()
        gc.collect()
        gc.freeze()  # excludes permanent objects from later collections
        on_ready()
        await self._stop.wait()
        sd_notify.stopping()
        if self._vendor_watch is not None:
            self._vendor_watch.cancel()
        await server.stop(DRAIN_SECONDS)
        if pages is not None:
            await pages.stop(0)
        self._memory.freshness.stop()
        self._request_log.flush()
        METRICS.flush()
        self._database.close()

    def _handle(self, request: Request) -> Response | Awaitable[Response]:
        return self._service.serve(request)  # a reload replaces the handler

    async def _serve_status(self) -> HttpServer | None:
        if self._metrics is None:
            return None
        server = HttpServer(StatusPages(REGISTRY, self._memory.instances.revision, METRICS.flush).handle)
        await server.start([Listener(socket=self._metrics, tag="metrics")])
        return server

    def _connections(self) -> ConnectionLimits:
        # Agents are few and have many connections. Clients that connect directly are limited.
        default = ConnectionLimits()
        return default if self._plan.secrets is None else ConnectionLimits(per_peer=default.total)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        try:
            config = configuration.load_metadata_api(self._config.config_files)
            self._plan = plan_service(config)
            self._take_over(self._plan)
            self._follow_vendor_file()
            if self._tls is not None and config.tls is not None:
                load_certificate(self._tls, config.tls)
        except (ConfigError, StartupError) as error:
            log.error("metadata API configuration reload failed", error=str(error))  # noqa: TRY400 - the message suffices
            return
        log.info("metadata API configuration reloaded")

    def _take_over(self, plan: ServiceConfig) -> None:
        retired, self._service = self._service, build_service(plan, self._memory, self._request_log)
        retired.retire()

    def _follow_vendor_file(self) -> None:
        """Watches the vendor data file, and applies its changes."""
        if self._vendor_watch is not None:
            self._vendor_watch.cancel()
        path, content = self._plan.vendor_file, self._plan.settings.static_vendor_data
        if path is not None and content is not None:
            watch = StaticVendorData(path, content).watch(self._serve_vendor_data)
            self._vendor_watch = asyncio.get_running_loop().create_task(watch)

    def _serve_vendor_data(self, content: Mapping[str, Any]) -> None:
        self._plan = replace(self._plan, settings=replace(self._plan.settings, static_vendor_data=content))
        self._take_over(self._plan)
