"""`openimds control-api`: the OpenStack subset that people and agents talk to."""

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
"""How long answers that are under way at the end may take. Long polls are answered at once."""


def run(config: ControlApiConfig) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. SIGHUP reads the token keys again, and the settings that metadata agents are told. Raises CannotStartError."""
    raise_nofile()
    store = _prepared_store(config.database_url)
    parts = build_parts(config, store)
    kept = FdStore.inherited()
    listener = inherited_or_new_listener(config.listen, kept, hint=" ([control_api] listen and port say where)")
    with (
        kept.reregistering(),
        metrics.serve_in_thread(config.metrics),
        Signals.handled(on_reload=parts.read_again) as signals,
        _pruning(config, store, parts, signals.stopped),
        _serving(parts, listener, signals.stopped),
    ):
        signals.wait()
    store.close()
    return 0


def _prepared_store(url: str) -> Store:
    store = Store(url)
    try:
        schema.upgrade(store)
    except StoreUnavailable as error:
        raise StartupError(error.message) from None
    log.info("the store is ready", version=schema.newest())
    return store


@contextmanager
def _serving(parts: ControlApi, listener: socket.socket, stopped: threading.Event) -> Iterator[None]:
    """Run uvicorn on a thread of its own, so that signals stay ours; ready once it answers."""
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
            stopped.set()  # a server that ends by itself ends the program

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
    """Every ten minutes: forget old changes, and revocations of tokens that have expired anyhow."""

    def prune() -> None:
        while not stopped.wait(PRUNE_INTERVAL_SECONDS):
            try:
                changes = store.prune_changes(timedelta(seconds=config.change_retention_seconds))
                tokens = parts.prune_revoked(utc_now())
            except OpenimdsError as error:
                log.warning("old changes could not be forgotten", reason=error.message)
            else:
                log.debug("old changes forgotten", changes=changes, revocations=tokens)

    thread = threading.Thread(target=prune, name="prune", daemon=True)
    thread.start()
    yield
    stopped.set()
    thread.join(DRAIN_SECONDS)
