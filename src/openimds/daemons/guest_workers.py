"""Several processes on one listening socket: the kernel gives each connection to one of them.

The parent starts them, starts again what dies, serves /metrics for all of them, and stops them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

import structlog
import uvloop
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from openimds.config import MetadataApiConfig
from openimds.daemons import notify
from openimds.daemons.guest_service import plan_service
from openimds.daemons.guest_worker import DRAIN_SECONDS, GuestWorker
from openimds.daemons.running import CannotStartError, begin
from openimds.http.server import GuestServer, Listener
from openimds.store.engine import Store
from openimds.web.guest.status import StatusPages

log = structlog.get_logger(__name__)

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that makes prometheus_client keep a process's numbers in files that others can read."""

START_SECONDS = 30.0
RESTART_SECONDS = 1.0
LOOK_SECONDS = 0.25

_processes = multiprocessing.get_context("spawn")  # no fork of a process that has threads and an event loop


def run_workers(
    config: MetadataApiConfig, listener: socket.socket, metrics: socket.socket | None, on_ready: Callable[[], None]
) -> int:
    """Until SIGTERM or SIGINT; the exit code. Raises CannotStartError when a worker does not come up."""
    with tempfile.TemporaryDirectory(prefix="openimds-metrics-") as folder:
        os.environ[METRICS_FOLDER] = folder
        pool = _Pool(config, listener)
        try:
            pool.start()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_watch(config, pool, metrics, on_ready))
        finally:
            pool.stop()
            del os.environ[METRICS_FOLDER]
    return 0


class _Pool:
    def __init__(self, config: MetadataApiConfig, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._workers: list[BaseProcess] = []
        self._earliest_restart = 0.0

    def start(self) -> None:
        """Start all of them and wait until they serve. Raises CannotStartError."""
        signs = [self._start_one() for _ in range(self._config.workers)]
        deadline = time.monotonic() + START_SECONDS
        for sign in signs:
            if not sign.wait(max(0.0, deadline - time.monotonic())):
                raise CannotStartError("a worker of the metadata API does not come up; its log says why")

    def look(self) -> None:
        """Start again what died."""
        for worker in [one for one in self._workers if not one.is_alive()]:
            if time.monotonic() < self._earliest_restart:
                return
            log.error("a worker died and is started again", pid=worker.pid, exit_code=worker.exitcode)
            self._workers.remove(worker)
            if worker.pid is not None:
                mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
            self._earliest_restart = time.monotonic() + RESTART_SECONDS
            self._start_one()

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to all."""
        for worker in self._workers:
            if worker.is_alive() and worker.pid is not None:
                os.kill(worker.pid, number)

    def stop(self) -> None:
        """Ask them to stop, and do not wait for ever."""
        self.tell(signal.SIGTERM)
        deadline = time.monotonic() + DRAIN_SECONDS + RESTART_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()

    def _start_one(self) -> Event:
        serves = _processes.Event()
        worker = _processes.Process(target=_work, args=(self._config, self._listener, serves), daemon=True)
        worker.start()
        self._workers.append(worker)
        return serves


def _work(config: MetadataApiConfig, listener: socket.socket, serves: Event) -> None:
    """A worker's whole life."""
    begin(config)
    os.environ.pop("NOTIFY_SOCKET", None)  # the parent speaks for all
    worker = GuestWorker(config, plan_service(config), listener, None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(worker.serve(on_ready=serves.set))


async def _watch(
    config: MetadataApiConfig, pool: _Pool, metrics: socket.socket | None, on_ready: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, pool.tell, signal.SIGHUP)
    pages = await _serve_status(config, metrics) if metrics is not None else None
    on_ready()
    while not stop.is_set():
        pool.look()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await stop.wait()
        except TimeoutError:
            continue
    notify.stopping()
    if pages is not None:
        await pages.stop(0)


async def _serve_status(config: MetadataApiConfig, metrics: socket.socket) -> GuestServer:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    server = GuestServer(StatusPages(registry, Store(config.database_url).revision).handle)
    await server.start([Listener(socket=metrics, tag="metrics")])
    return server
