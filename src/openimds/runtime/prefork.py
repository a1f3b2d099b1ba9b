"""Several processes on the same listening sockets: the kernel gives each connection to one of them.

The parent starts them, starts again what dies, serves /metrics for all of them, and stops them. A worker whose parent
is gone stops by itself.
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
"""The environment variable that makes prometheus_client keep a process's numbers in files that others can read."""

START_SECONDS = 30.0
STOP_SECONDS = 8.0
"""Longer than a worker takes to finish what is under way."""
RESTART_SECONDS = 1.0
LOOK_SECONDS = 0.25

_processes = multiprocessing.get_context("spawn")  # no fork of a process that has threads and an event loop


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What each worker does: `function(number, on_ready, *arguments)`, until SIGTERM.

    It is a module's function, as each worker is a new interpreter. Listening sockets may be among the arguments.
    """

    function: Callable[..., None]
    arguments: tuple[Any, ...]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentHooks:
    """What the parent does besides."""

    status: Callable[[CollectorRegistry], AbstractAsyncContextManager[None]]
    """Serves the figures of all workers while the block runs."""
    on_ready: Callable[[], None]
    on_look: Callable[[], None] = lambda: None
    """Called some times a second."""


def run_workers(work: WorkerSpec, parent: ParentHooks, figures: Path) -> int:
    """Until SIGTERM or SIGINT; the exit code. `figures`: an empty folder for what the workers count (metrics_folder.py).

    Raises CannotStartError when a worker does not come up.
    """
    os.environ[METRICS_FOLDER] = str(figures)
    pool = _Pool(work)
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
    serves: Event
    reloads: int = 0
    """How often it was told to read its files again."""

    def tell(self, number: signal.Signals) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)


class _Pool:
    def __init__(self, work: WorkerSpec) -> None:
        self._work = work
        self._workers: list[_Worker] = []
        self._earliest_restart = 0.0
        self._reloads = 0

    def start(self) -> None:
        """Start all of them and wait until they serve. Raises CannotStartError."""
        self._workers = [self._start_one(number) for number in range(self._work.count)]
        deadline = time.monotonic() + START_SECONDS
        for worker in self._workers:
            if not worker.serves.wait(max(0.0, deadline - time.monotonic())):
                raise StartupError("a worker does not come up; its log says why")

    def look(self) -> None:
        """Start again what died, and have it read the files that the others have read since."""
        self._pass_on_reloads()
        for index, worker in enumerate(self._workers):
            if worker.process.is_alive():
                continue
            if time.monotonic() < self._earliest_restart:
                return
            log.error(
                "a worker died and is started again",
                worker=worker.number, pid=worker.process.pid, exit_code=worker.process.exitcode,
            )  # fmt: skip
            if worker.process.pid is not None:
                mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
            self._earliest_restart = time.monotonic() + RESTART_SECONDS
            self._workers[index] = self._start_one(worker.number)

    def reload(self) -> None:
        """SIGHUP to all, to those that are starting when they serve: before, it would end them."""
        self._reloads += 1
        self._pass_on_reloads()

    def _pass_on_reloads(self) -> None:
        for worker in self._workers:
            if worker.reloads < self._reloads and worker.serves.is_set():
                worker.reloads = self._reloads
                worker.tell(signal.SIGHUP)

    def stop(self) -> None:
        """Ask them to stop, and do not wait for ever."""
        for worker in self._workers:
            worker.tell(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _start_one(self, number: int) -> _Worker:
        serves = _processes.Event()
        process = _processes.Process(target=_be_worker, args=(self._work, number, serves), daemon=True)
        process.start()
        return _Worker(number, process, serves)


def _be_worker(work: WorkerSpec, number: int, serves: Event) -> None:
    """A worker's whole life."""
    os.environ.pop("NOTIFY_SOCKET", None)  # the parent speaks for all
    threading.Thread(target=_stop_without_parent, name="parent", daemon=True).start()
    work.function(number, serves.set, *work.arguments)


def _stop_without_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only workers wait for a parent"
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
            pool.look()
            await asyncio.to_thread(parent.on_look)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue
        sd_notify.stopping()
        # While the signals are heeded yet: a second SIGTERM must not end this process, and so cut the workers short.
        await asyncio.to_thread(pool.stop)
