"""`openimds control-api`: the OpenStack APIs for users and agents."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
import uvicorn

from openimds.config import ControlApiConfig
from openimds.control_api.connections import limited_protocol
from openimds.programs.control_api.wiring import ControlApi, build_parts
from openimds.resources.errors import OpenimdsError, StoreUnavailable
from openimds.runtime import metrics, sd_notify
from openimds.runtime.fdstore import FdStore, inherited_or_new_listener
from openimds.runtime.lifecycle import Signals, StartupError
from openimds.runtime.rlimits import raise_nofile
from openimds.store import schema
from openimds.store.engine import Store, utc_now

log = structlog.get_logger(__name__)

PRUNE_INTERVAL_SECONDS = 600
DRAIN_SECONDS = 3
"""The time for open requests to finish at the stop. Long polls get an immediate response."""


def run(config: ControlApiConfig) -> int:
    """Serves until SIGTERM or SIGINT, and returns the exit code. Raises StartupError.

    SIGHUP reloads the token keys, the rules of the policy, and the settings for rendering documents.
    """
    raise_nofile()
    store = _open_store(config.database_url)
    parts = build_parts(config, store)
    fd_store = FdStore.inherited()
    listener = inherited_or_new_listener(config.listen, fd_store, hint=" (see [control_api] listen and port)")
    with (
        fd_store.reregistering(),
        metrics.serve_in_thread(config.metrics),
        Signals.handled(on_reload=parts.reload) as signals,
        _pruning(config, store, parts, signals.stopped),
        _serving(parts, listener, signals.stopped),
    ):
        signals.wait()
    store.close()
    return 0


def _open_store(url: str) -> Store:
    try:
        store = Store(url)
        schema.upgrade(store)
    except StoreUnavailable as error:
        raise StartupError(error.message) from None
    log.info("store opened", version=schema.newest())
    return store


@contextmanager
def _serving(parts: ControlApi, listener: socket.socket, stopped: threading.Event) -> Iterator[None]:
    """Runs uvicorn on a thread, because uvicorn handles signals itself in the main thread."""
    server = uvicorn.Server(
        uvicorn.Config(
            parts.app,
            http=limited_protocol(),
            loop="uvloop",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )

    def serve() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            stopped.set()  # the program ends with its server

    thread = threading.Thread(target=serve, name="http")
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    host, port = listener.getsockname()[:2]
    sd_notify.ready(listens=f"{host}:{port}", public_url=parts.public_url)
    try:
        yield
    finally:
        parts.end_long_polls()
        server.should_exit = True
        thread.join()


@contextmanager
def _pruning(config: ControlApiConfig, store: Store, parts: ControlApi, stopped: threading.Event) -> Iterator[None]:
    """Prunes old changes and the revocations of expired tokens every PRUNE_INTERVAL_SECONDS."""

    def prune() -> None:
        while not stopped.wait(PRUNE_INTERVAL_SECONDS):
            try:
                changes = store.prune_changes(timedelta(seconds=config.change_retention_seconds))
                tokens = parts.prune_revoked(utc_now())
            except OpenimdsError as error:
                log.warning("pruning of old changes failed", reason=error.message)
            else:
                log.debug("old changes pruned", changes=changes, revocations=tokens)

    thread = threading.Thread(target=prune, name="prune", daemon=True)
    thread.start()
    yield
    stopped.set()
    thread.join(DRAIN_SECONDS)
