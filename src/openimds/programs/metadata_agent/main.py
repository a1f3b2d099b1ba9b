"""`openimds metadata-agent`: its sockets, and the processes that serve them."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from openimds.config import MetadataAgentConfig
from openimds.http.sockets import ListenError, tcp_listener
from openimds.programs.metadata_agent.adapters import upstream_of
from openimds.programs.metadata_agent.sockets import AgentSockets, open_sockets
from openimds.programs.metadata_agent.worker import MetadataAgentWorker
from openimds.runtime import metrics, sd_notify
from openimds.runtime.fdstore import FdStore
from openimds.runtime.lifecycle import StartupError, begin
from openimds.runtime.metrics import metrics_folder
from openimds.runtime.prefork import ParentHooks, WorkerSpec, run_workers
from openimds.runtime.rlimits import raise_nofile

log = structlog.get_logger(__name__)


def run(config: MetadataAgentConfig) -> int:
    """Runs until SIGTERM. Returns the exit code. Raises StartupError."""
    upstream_of(config)  # raises errors once, before the workers start
    raise_nofile()
    kept = FdStore.inherited()
    sockets = open_sockets(config, kept)
    if not config.shared_secret:
        log.warning(
            "shared secret empty: each client of the metadata API can sign requests (metadata_proxy_shared_secret)"
        )
    if config.workers > 1:
        return _run_workers(config, sockets, kept)
    with metrics.serve_in_thread(config.metrics):
        MetadataAgentWorker(config, sockets, 0).run(lambda: _tell_ready(config, kept), kept)
    return 0


def _run_workers(config: MetadataAgentConfig, sockets: AgentSockets, kept: FdStore) -> int:
    log.info(
        "several workers serve the namespace proxies; in namespaces themselves they do not listen: "
        "metadata_proxy = direct of the DHCP and L3 agents takes metadata_workers = 1",
        workers=config.workers,
    )
    try:
        status = tcp_listener(config.metrics.host, config.metrics.port) if config.metrics else None
    except ListenError as error:
        raise StartupError(str(error)) from None
    parent = ParentHooks(
        status=lambda registry: metrics.serve_on_loop(registry, status, lambda: None),
        on_ready=lambda: _tell_ready(config, kept),
        on_check=kept.reregister,
    )
    work = WorkerSpec(function=_be_worker, arguments=(config, sockets), count=config.workers)
    with metrics_folder(config.state_path, config.program) as figures:
        return run_workers(work, parent, figures)


def _be_worker(number: int, on_ready: Callable[[], None], config: MetadataAgentConfig, sockets: AgentSockets) -> None:
    """Runs one of several workers. The parent keeps the sockets."""
    begin(config)
    MetadataAgentWorker(config, sockets, number).run(on_ready, None)


def _tell_ready(config: MetadataAgentConfig, kept: FdStore) -> None:
    kept.close_untaken()
    sd_notify.ready(listens=str(config.socket_path), metadata_api=str(upstream_of(config)), workers=config.workers)
