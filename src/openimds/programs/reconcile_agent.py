"""The main loop that the DHCP, L3 and compute agents share: mirror, scheduler, heartbeat and signals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from openimds.agents.reconciler.reconciler import PassReport, Reconciler, ResourceHandler
from openimds.agents.reconciler.scheduler import Scheduler
from openimds.client.control_client import ControlClient
from openimds.client.mirror import CloudMirror
from openimds.client.store_guard import SUSPENDED, StoreGuard
from openimds.config import AgentConfig
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.monitor.process_exit import ProcessExitWatcher
from openimds.runtime import metrics, sd_notify
from openimds.runtime.heartbeat import Heartbeat, Identity
from openimds.runtime.lifecycle import Signals, WatchMissingError
from openimds.runtime.rlimits import raise_nofile

EXTENSION_SECONDS = 60.0
"""The extension of the start timeout with each progress report. A first pass without progress for this time has failed."""
VIEW_POLL_SECONDS = 0.1
PROGRESS_SECONDS = 2.0
"""The interval of progress reports to the service manager during the first pass."""

log = structlog.get_logger(__name__)


class ReportingHandler(ResourceHandler[Any], Protocol):
    """A resource handler that reports the state of each of its resources."""

    @property
    def report(self) -> Mapping[str, Mapping[str, object]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """The parts in which the agents differ."""

    config: AgentConfig
    identity: Identity
    counterpart: str
    """The program that does this work in a cloud without the watch, such as `neutron-dhcp-agent`."""
    client: ControlClient
    kinds: Sequence[str]
    handler: ReportingHandler
    interval_seconds: float
    reload: Callable[[], None]
    """Reloads the configuration and applies it to the handler."""
    monitor: HostMonitor
    """The monitor of kernel and process events. The adapters register the objects that they read with it."""
    notes: Sequence[str] = ()
    """Properties of the host for `openimds status`, such as a limit that it cannot enforce."""
    folders: Sequence[Path] = ()
    """The folders of the handler's files (`<id>.conf`, `<id>/host`), which are watched for changes."""


def serve(agent: AgentSpec) -> int:
    """Runs the agent until SIGTERM or SIGINT and returns the exit code. Namespaces and processes stay in place.

    Raises WatchMissingError if the cloud has no watch, unless this host had a control API with one before.
    """
    raise_nofile()  # each namespace keeps some files open
    guard = StoreGuard(agent.config.state_path, agent.identity.binary)
    is_first_start = guard.recorded() is None
    mirror = CloudMirror(agent.client, agent.kinds, guard=guard, requires_watch=True)
    exit_watcher = ProcessExitWatcher(agent.monitor.processes_exited)
    scheduler = Scheduler(Reconciler(agent.handler, agent.monitor), mirror, agent.interval_seconds, exit_watcher.watch)
    heartbeat = Heartbeat(
        agent.client, agent.identity, lambda: _facts(agent, scheduler, mirror), agent.config.report_interval_seconds
    )

    def reload() -> None:
        agent.reload()
        agent.client.retry_login()
        scheduler.request_resync()
        log.info("agent configuration reloaded")

    with Signals.handled(on_reload=reload) as signals, metrics.serve_in_thread(agent.config.metrics):
        failed = threading.Event()
        thread = threading.Thread(
            target=_run_scheduler, args=(scheduler, signals, failed), name="scheduler", daemon=True
        )
        agent.monitor.start(agent.folders, scheduler.wake, scheduler.request_resync)
        mirror.start()
        thread.start()
        is_supported = _await_view(mirror, signals, is_first_start=is_first_start)
        if is_supported:
            _announce_when_ready(agent, scheduler, signals, failed)
            heartbeat.start()
            signals.wait()
        heartbeat.stop()
        scheduler.stop()
        mirror.stop()
        thread.join(timeout=10)
        exit_watcher.close()
        agent.monitor.close()
    if not is_supported:
        raise WatchMissingError(_no_watch_sentence(agent))
    return 1 if failed.is_set() else 0


def _await_view(mirror: CloudMirror, signals: Signals, *, is_first_start: bool) -> bool:
    """Waits for the first view or a stop. Returns False if the cloud of a first start has no watch.

    On a host that had a view before, the catalog lacks the watch for some time, such as during an upgrade.
    """
    is_logged = False
    while mirror.view().revision < 0 and not signals.stopped.wait(VIEW_POLL_SECONDS):
        if mirror.watch_unavailable and is_first_start:
            return False
        if mirror.watch_unavailable and not is_logged:
            is_logged = True
            log.warning(
                "agent start delayed until the catalog has the watch",
                reason="this host had a control API of openimds before; `openimds host adopt` and a restart end the wait",
            )
    return True


def _no_watch_sentence(agent: AgentSpec) -> str:
    auth = agent.config.auth
    region = f" in the region {auth.region_name}" if auth.region_name else ""
    return (
        f"the catalog of {auth.auth_url} has no service of the type instance-metadata{region}, which the control API of "
        f"openimds has, so {agent.identity.binary} cannot work with this cloud: run {agent.counterpart} of this cloud instead. "
        "openimds-metadata-agent and the metadata API work with it"
    )


def _run_scheduler(scheduler: Scheduler[Any], signals: Signals, failed: threading.Event) -> None:
    try:
        scheduler.run()
    except Exception:
        # The service manager restarts a program that ends, but does not detect one that hangs.
        log.exception("reconcile loop ended by an unexpected exception")
        failed.set()
        signals.stopped.set()


def _announce_when_ready(
    agent: AgentSpec, scheduler: Scheduler[Any], signals: Signals, failed: threading.Event
) -> None:
    """Sends READY=1 after the first full pass, unless the scheduler has ended by an exception before."""
    progress = Progress(agent.handler.kind, time.monotonic())
    while not signals.stopped.is_set() and not scheduler.first_resync_done.wait(0.1):
        status = progress.next_report(scheduler.completed_count, scheduler.resource_count, time.monotonic())
        if status:
            sd_notify.extend_start(EXTENSION_SECONDS, status)
    if scheduler.first_resync_done.is_set() and scheduler.last_report is not None and not failed.is_set():
        sd_notify.ready(
            **{
                f"{agent.handler.kind}s": scheduler.last_report.resource_count,
                "failures": len(scheduler.last_report.failures),
            }
        )


class Progress:
    """The progress reports of the first pass, which may take longer than the usual start timeout."""

    def __init__(self, kind: str, now: float) -> None:
        """`now` is a time.monotonic."""
        self._kind = kind
        self._reported_steps = 0
        self._next_at = now + PROGRESS_SECONDS

    def next_report(self, steps: int, resources: int, now: float) -> str:
        """Returns `120 of 200 networks`, or "" if no report is due or no step was done since the last one."""
        if now < self._next_at or steps == self._reported_steps:
            return ""
        self._reported_steps, self._next_at = steps, now + PROGRESS_SECONDS
        return f"{min(steps, resources)} of {resources} {self._kind}s"


def _facts(agent: AgentSpec, scheduler: Scheduler[Any], mirror: CloudMirror) -> Mapping[str, Any]:
    """The `configurations` of the heartbeat, which `openimds status` and Neutron's agent API show."""
    kind, last = agent.handler.kind, scheduler.last_report
    common: dict[str, Any] = {} if mirror.view().is_trusted else {"suspended": SUSPENDED}
    if agent.notes:
        common["notes"] = list(agent.notes)
    if last is None:
        return {f"{kind}s": 0, **common}
    return {
        **common,
        f"{kind}s": last.resource_count,
        "last_change": _change_facts(scheduler.last_change) if scheduler.last_change else None,
        "failures": dict(last.failures),
        "last_round_milliseconds": last.milliseconds,
        "full_rounds": scheduler.resync_count,
        "full_round_milliseconds": scheduler.resync_milliseconds,
        f"by_{kind}": dict(agent.handler.report),
    }


def _change_facts(report: PassReport) -> Mapping[str, Any]:
    return {
        "at": report.ended_at.isoformat(timespec="milliseconds"),
        "changes": {key: list(words) for key, words in report.changes.items()},
    }
