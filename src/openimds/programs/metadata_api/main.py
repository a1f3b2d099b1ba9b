"""`openimds metadata-api`: serves the documents of instances."""

from __future__ import annotations

import asyncio
import socket
from multiprocessing import get_context

import structlog
import uvloop

from openimds.config import Listen, MetadataApiConfig
from openimds.http.sockets import ListenError, tcp_listener
from openimds.programs.metadata_api.tls import server_context
from openimds.programs.metadata_api.wiring import plan_service
from openimds.programs.metadata_api.worker import MetadataApiWorker, be_worker
from openimds.resources.errors import StoreUnavailable
from openimds.runtime import metrics, sd_notify
from openimds.runtime.fdstore import FdStore, inherited_or_new_listener
from openimds.runtime.lifecycle import StartupError
from openimds.runtime.metrics import metrics_folder
from openimds.runtime.prefork import ParentHooks, WorkerSpec, run_workers
from openimds.store.raw.database import Database
from openimds.store.schema_version import is_newest, upgrade_store

log = structlog.get_logger(__name__)


def run(config: MetadataApiConfig) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code. Raises StartupError."""
    plan = plan_service(config)
    server_context(config.tls)  # raises errors once, before the workers start
    if plan.secrets == ("",):
        log.warning("shared secret empty, as allow_empty_shared_secret permits: requests are not authenticated")
    _prepare_store(config.database_url)
    kept = FdStore.inherited()
    listener = inherited_or_new_listener(
        config.listen, kept, hint=" ([DEFAULT] metadata_listen and metadata_listen_port say where)"
    )
    status = _listener(config.metrics) if config.metrics else None
    place = f"{config.listen.host}:{config.listen.port}"
    if config.workers > 1:
        check = Database(config.database_url).revision
        parent = ParentHooks(
            status=lambda registry: metrics.serve_on_loop(registry, status, check),
            on_ready=lambda: sd_notify.ready(listens=place, workers=config.workers),
        )
        work = WorkerSpec(function=be_worker, arguments=(config, listener), count=config.workers)
        with kept.reregistering(), metrics_folder(config.state_path, config.program) as figures:
            return run_workers(work, parent, figures)
    worker = MetadataApiWorker(config, plan, listener, status)
    with kept.reregistering(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(worker.serve(on_ready=lambda: sd_notify.ready(listens=place)))
    return 0


def _prepare_store(url: str) -> None:
    try:
        database = Database(url)
        if not is_newest(database):
            from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - rarely needed

            # In a separate process, because the migration code would stay in memory (35 MiB).
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
                processes.submit(upgrade_store, url).result()
        database.close()
    except StoreUnavailable as error:
        raise StartupError(error.message) from None


def _listener(listen: Listen) -> socket.socket:
    try:
        return tcp_listener(listen.host, listen.port)
    except ListenError as error:
        raise StartupError(str(error)) from None
