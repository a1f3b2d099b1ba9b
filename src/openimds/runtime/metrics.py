"""`/metrics` and `/healthcheck` on a listener of their own, which instances cannot reach.

A threaded program serves them with `serve_in_thread`, an asyncio program with `StatusPages`, and the parent of worker
processes with `serve_on_loop`. The workers of a program share their metrics in `metrics_folder`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

from openimds.config import Listen
from openimds.http.messages import Request, Response
from openimds.http.server.server import HttpServer, Listener
from openimds.resources.errors import StoreUnavailable
from openimds.runtime.lifecycle import StartupError

_TEXT = "text/plain; charset=UTF-8"


class StatusPages:
    """The request handler of `/metrics` and `/healthcheck` for `HttpServer`."""

    def __init__(
        self,
        registry: CollectorRegistry,
        check: Callable[[], object],
        before_metrics: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises StoreUnavailable and may block. `before_metrics` runs before each `/metrics` response."""
        self._registry = registry
        self._check = check
        self._before_metrics = before_metrics

    async def handle(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _page(405, "Only GET and HEAD can be used here.", (b"Allow", b"GET, HEAD"))
        match request.target.split(b"?", 1)[0]:
            case b"/metrics":
                self._before_metrics()
                content_type = (b"Content-Type", CONTENT_TYPE_PLAIN_0_0_4.encode())
                return Response(status=200, headers=(content_type,), body=generate_latest(self._registry))
            case b"/healthcheck":
                return await self._health()
        return _page(404, "Here are /metrics and /healthcheck.")

    async def _health(self) -> Response:
        try:
            await asyncio.to_thread(self._check)
        except StoreUnavailable as error:
            return _page(503, error.message)
        return _page(200, "OK")


def _page(status: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    return Response(status=status, headers=((b"Content-Type", _TEXT.encode()), *headers), body=f"{text}\n".encode())


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._respond(200, CONTENT_TYPE_LATEST, generate_latest())
        elif path == "/healthcheck":
            self._respond(200, "text/plain", b"OK\n")
        else:
            self._respond(404, "text/plain", b"There are /metrics and /healthcheck here.\n")

    def _respond(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Does nothing: frequent health checks are not worth log lines."""


@contextmanager
def serve_in_thread(listen: Listen | None) -> Iterator[None]:
    """Serves both pages while the block runs, unless `listen` is None. Raises StartupError if the port is taken."""
    if listen is None:
        yield
        return
    try:
        server = ThreadingHTTPServer((listen.host, listen.port), _Handler)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {listen.host}:{listen.port} for metrics: {error.strerror}; set [metrics] port"
        ) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@asynccontextmanager
async def serve_on_loop(
    registry: CollectorRegistry, listener: socket.socket | None, check: Callable[[], object]
) -> AsyncIterator[None]:
    """Serves both pages on `listener` while the block runs, unless it is None.

    `check` raises StoreUnavailable if the program is not healthy.
    """
    if listener is None:
        yield
        return
    server = HttpServer(StatusPages(registry, check).handle)
    await server.start([Listener(socket=listener, tag="metrics")])
    try:
        yield
    finally:
        await server.stop(0)


class CounterRate:
    """The rate of a Prometheus counter, over all workers of a program."""

    def __init__(self, name: str) -> None:
        """`name` is the counter's name without the suffix `_total`."""
        self._sample = f"{name}_total"
        self._previous = (time.monotonic(), 0.0)

    def per_second(self) -> float:
        """Returns the mean rate since the previous call, or since the creation of the object."""
        (then, before), now, total = self._previous, time.monotonic(), self._total()
        self._previous = (now, total)
        return max(0.0, total - before) / max(now - then, 1.0)

    def _total(self) -> float:
        registry = REGISTRY
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        samples = (sample for family in registry.collect() for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == self._sample)


FOLDER = "metrics"
"""The name of the parent folder in the state folder."""


@contextmanager
def metrics_folder(state_path: Path, program: str) -> Iterator[Path]:
    """A new folder `<state_path>/metrics/<program>.<random>/` with mode 0700, removed after the block.

    The program holds an flock(2) on its folder, which the kernel releases when the process ends in any way. Each start
    removes unlocked folders of its program. Two running programs of the same name have a folder each.
    Raises StartupError.
    """
    folder, lock = _create_locked_folder(state_path / FOLDER, program)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _create_locked_folder(parent: Path, program: str) -> tuple[Path, int]:
    """Returns the folder and the file descriptor that holds its lock."""
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        parent_lock = _open(parent)
        try:
            # The parent's lock closes the gap between mkdir and flock of another program's folder.
            fcntl.flock(parent_lock, fcntl.LOCK_EX)
            for existing in parent.glob(f"{program}.*"):
                _remove_if_unlocked(existing)
            folder = Path(tempfile.mkdtemp(prefix=f"{program}.", dir=parent))
            lock = _open(folder)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(parent_lock)
    except OSError as error:
        raise StartupError(
            f"workers cannot write their metrics to {parent}: {(error.strerror or str(error)).lower()}; make it writable "
            f"for the user of {program}, set another state_path, or metadata_workers = 1"
        ) from error
    return folder, lock


def _remove_if_unlocked(folder: Path) -> None:
    descriptor = _open(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
