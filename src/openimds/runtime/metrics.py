"""`/metrics` and `/healthcheck` on a port of their own: of a threaded program, or of several workers' parent.

Where several workers of one program keep their numbers for each other: `<state_path>/metrics/<program>.<anything>/`.

Each is held by an flock of its program for as long as that lives, however it ends: what nobody holds is a dead one's, and
the next start removes it. Two programs of one name may so keep theirs beside each other.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import prometheus_client

from openimds.config import Listen
from openimds.http.server.server import HttpServer, Listener
from openimds.runtime.lifecycle import StartupError
from openimds.runtime.status_pages import StatusPages


class _Handler(BaseHTTPRequestHandler):
    """Two paths; whoever asks for another hears so."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, prometheus_client.CONTENT_TYPE_LATEST, prometheus_client.generate_latest())
        elif path == "/healthcheck":
            self._answer(200, "text/plain", b"OK\n")
        else:
            self._answer(404, "text/plain", b"There are /metrics and /healthcheck here.\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Health checks are no news."""


@contextmanager
def served(listen: Listen | None) -> Iterator[None]:
    """While the block runs. None: not at all. Raises CannotStartError when the port is taken."""
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
async def served_by_loop(
    registry: prometheus_client.CollectorRegistry, listening: socket.socket | None, check: Callable[[], object]
) -> AsyncIterator[None]:
    """While the block runs, on a ready-made socket. `check` raises StoreUnavailable when not all is well."""
    if listening is None:
        yield
        return
    server = HttpServer(StatusPages(registry, check).handle)
    await server.start([Listener(socket=listening, tag="metrics")])
    try:
        yield
    finally:
        await server.stop(0)


FOLDER = "metrics"
"""In the state folder."""


@contextmanager
def metrics_folder(state_path: Path, program: str) -> Iterator[Path]:
    """A new folder that only its owner may read, gone after the block. Raises CannotStartError with a sentence."""
    folder, held = _made(state_path / FOLDER, program)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _made(parent: Path, program: str) -> tuple[Path, int]:
    """The folder and the descriptor that holds it."""
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        looking = _open(parent)
        try:
            fcntl.flock(looking, fcntl.LOCK_EX)  # a folder that another one has just made is not held yet
            for left in parent.glob(f"{program}.*"):
                _remove_unless_held(left)
            folder = Path(tempfile.mkdtemp(prefix=f"{program}.", dir=parent))
            held = _open(folder)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(looking)
    except OSError as error:
        raise StartupError(
            f"workers cannot keep their figures in {parent}: {(error.strerror or str(error)).lower()}; make it writable "
            f"for the user of {program}, set another state_path, or metadata_workers = 1"
        ) from error
    return folder, held


def _remove_unless_held(folder: Path) -> None:
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
