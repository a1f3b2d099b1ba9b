"""Worker processes that share listening sockets; the kernel hands each connection to one of them.

The parent starts the workers, restarts a dead one, serves `/metrics` for all, and stops them. A worker stops when its
parent is gone.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import structlog
import uvloop
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from openimds.runtime import sd_notify
from openimds.runtime.lifecycle import StartupError

log = structlog.get_logger(__name__)

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that makes prometheus_client write the metrics of each process to shared files."""

START_SECONDS = 30.0
STOP_SECONDS = 8.0
"""A time longer than a worker needs to finish its open requests."""
RESTART_SECONDS = 1.0
CHECK_SECONDS = 0.25

_processes = multiprocessing.get_context("spawn")  # because fork(2) is unsafe with threads and an event loop


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """The main function of each worker: `function(number, on_ready, *arguments)` runs until SIGTERM.

    It must be importable from its module, because each worker is a new interpreter. The arguments may contain listening
    sockets.
    """

    function: Callable[..., None]
    arguments: tuple[Any, ...]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentHooks:
    """The callbacks that run in the parent process."""

    status: Callable[[CollectorRegistry], AbstractAsyncContextManager[None]]
    """Serves the metrics of all workers while the block runs."""
    on_ready: Callable[[], None]
    on_check: Callable[[], None] = lambda: None
    """Called every CHECK_SECONDS, when the parent checks its workers."""


def run_workers(spec: WorkerSpec, parent: ParentHooks, metrics_dir: Path) -> int:
    """Runs the workers until SIGTERM or SIGINT, and returns the exit code.

    `metrics_dir` is an empty folder that the workers write their metrics to (`metrics.metrics_folder`). Raises
    StartupError if a worker does not become ready.
    """
    os.environ[METRICS_FOLDER] = str(metrics_dir)
    pool = _Pool(spec)
    try:
        pool.start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_watch(pool, parent))
    finally:
        pool.stop()
        del os.environ[METRICS_FOLDER]
    return 0


@dataclass(slots=True)
class _Worker:
    number: int
    process: BaseProcess
    is_ready: Event
    reload_count: int = 0
    """The number of reloads of the pool that the worker has received SIGHUP for."""

    def send_signal(self, number: signal.Signals) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)


class _Pool:
    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._workers: list[_Worker] = []
        self._earliest_restart = 0.0
        self._reload_count = 0

    def start(self) -> None:
        """Starts all workers and waits until they are ready. Raises StartupError."""
        self._workers = [self._start_worker(number) for number in range(self._spec.count)]
        deadline = time.monotonic() + START_SECONDS
        for worker in self._workers:
            if not worker.is_ready.wait(max(0.0, deadline - time.monotonic())):
                raise StartupError(f"worker {worker.number} is not ready after {START_SECONDS:.0f} s; see its log")

    def check(self) -> None:
        """Restarts dead workers, and sends pending reloads to workers that have become ready."""
        self._send_pending_reloads()
        for index, worker in enumerate(self._workers):
            if worker.process.is_alive():
                continue
            if time.monotonic() < self._earliest_restart:
                return
            log.error(
                "worker process died and restarts",
                worker=worker.number, pid=worker.process.pid, exit_code=worker.process.exitcode,
            )  # fmt: skip
            if worker.process.pid is not None:
                mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
            self._earliest_restart = time.monotonic() + RESTART_SECONDS
            self._workers[index] = self._start_worker(worker.number)

    def reload(self) -> None:
        """Sends SIGHUP to every worker. A starting worker receives it once it is ready: earlier, SIGHUP would end it."""
        self._reload_count += 1
        self._send_pending_reloads()

    def _send_pending_reloads(self) -> None:
        for worker in self._workers:
            if worker.reload_count < self._reload_count and worker.is_ready.is_set():
                worker.reload_count = self._reload_count
                worker.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Sends SIGTERM to all workers, and SIGKILL after STOP_SECONDS."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _start_worker(self, number: int) -> _Worker:
        is_ready = _processes.Event()
        process = _processes.Process(target=_run_worker, args=(self._spec, number, is_ready), daemon=True)
        process.start()
        return _Worker(number, process, is_ready)


def _run_worker(spec: WorkerSpec, number: int, is_ready: Event) -> None:
    """The main function of a worker process."""
    os.environ.pop("NOTIFY_SOCKET", None)  # only the parent sends notifications
    threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    spec.function(number, is_ready.set, *spec.arguments)


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes have a parent"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


async def _watch(pool: _Pool, parent: ParentHooks) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, pool.reload)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    async with parent.status(registry):
        parent.on_ready()
        while not stop.is_set():
            pool.check()
            await asyncio.to_thread(parent.on_check)
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue
        sd_notify.stopping()
        # The signal handlers stay installed: a second SIGTERM must not end this process before its workers.
        await asyncio.to_thread(pool.stop)
