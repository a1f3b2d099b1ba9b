"""What the DHCP and the L3 agent's mains have in common: a mirror, a loop of rounds, a heartbeat, signals."""

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
from openimds.config import AgentConfig
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.monitor.process_exit import ProcessExitWatcher
from openimds.runtime import metrics, sd_notify
from openimds.runtime.heartbeat import Heartbeat, Identity
from openimds.runtime.lifecycle import Signals
from openimds.runtime.rlimits import raise_nofile

EXTENSION_SECONDS = 60.0
"""A first round that does nothing new for so long has failed."""
TELLING_SECONDS = 2.0
"""How often the starter is told of a first round that goes on."""

log = structlog.get_logger(__name__)


class ReportingHandler(ResourceHandler[Any], Protocol):
    """A trade that can say what is true of each of its things."""

    @property
    def report(self) -> Mapping[str, Mapping[str, object]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """An agent, but for its wheels."""

    config: AgentConfig
    identity: Identity
    client: ControlClient
    kinds: Sequence[str]
    trade: ReportingHandler
    interval_seconds: float
    reload: Callable[[], None]
    """Read the configuration again, and give the trade its new settings."""
    monitor: HostMonitor
    """The kernel's and the programs' keepers note in it what they look at."""
    folders: Sequence[Path] = ()
    """Where the trade keeps its files: `<id>.conf`, `<id>/host`."""


def serve(agent: AgentSpec) -> int:
    """Until SIGTERM or SIGINT. The exit code. What was wired stays wired."""
    raise_nofile()  # some stay open for each namespace
    mirror = CloudMirror(agent.client, agent.kinds)
    deaths = ProcessExitWatcher(agent.monitor.processes_exited)
    loop = Scheduler(Reconciler(agent.trade, agent.monitor), mirror, agent.interval_seconds, deaths.watch)
    heartbeat = Heartbeat(
        agent.client, agent.identity, lambda: _facts(agent, loop), agent.config.report_interval_seconds
    )

    def reload() -> None:
        agent.reload()
        loop.request_resync()
        log.info("the configuration was read again")

    with Signals.handled(on_reload=reload) as signals, metrics.serve_in_thread(agent.config.metrics):
        failed = threading.Event()
        worker = threading.Thread(target=_run_loop, args=(loop, signals, failed), name="rounds", daemon=True)
        agent.monitor.start(agent.folders, loop.wake, loop.request_resync)
        mirror.start()
        worker.start()
        _announce_when_ready(agent, loop, signals, failed)
        heartbeat.start()
        signals.wait()
        heartbeat.stop()
        loop.stop()
        mirror.stop()
        worker.join(timeout=10)
        deaths.close()
        agent.monitor.close()
    return 1 if failed.is_set() else 0


def _run_loop(loop: Scheduler[Any], signals: Signals, failed: threading.Event) -> None:
    try:
        loop.run()
    except Exception:
        # Whoever started this program starts it again; a program that only looks alive is worse.
        log.exception("the agent met an error of its own and ends")
        failed.set()
        signals.stopped.set()


def _announce_when_ready(agent: AgentSpec, loop: Scheduler[Any], signals: Signals, failed: threading.Event) -> None:
    """After the first full round: what this host should have, it has. Never, when the loop has ended by an error."""
    progress = Progress(agent.trade.kind, time.monotonic())
    while not signals.stopped.is_set() and not loop.first_resync_done.wait(0.1):
        status = progress.news(loop.completed_count, loop.resource_count, time.monotonic())
        if status:
            sd_notify.extend_start(EXTENSION_SECONDS, status)
    if loop.first_resync_done.is_set() and loop.last_report is not None and not failed.is_set():
        sd_notify.ready(
            **{f"{agent.trade.kind}s": loop.last_report.resource_count, "failures": len(loop.last_report.failures)}
        )


class Progress:
    """What the starter is told of a first round while it goes on: it may take longer than a start usually does."""

    def __init__(self, kind: str, now: float) -> None:
        """`now` as of time.monotonic."""
        self._kind = kind
        self._told = 0
        self._next = now + TELLING_SECONDS

    def news(self, steps: int, things: int, now: float) -> str:
        """`120 of 200 networks`, if that is to be told now; empty: it is not, or nothing was done since it was told."""
        if now < self._next or steps == self._told:
            return ""
        self._told, self._next = steps, now + TELLING_SECONDS
        return f"{min(steps, things)} of {things} {self._kind}s"


def _facts(agent: AgentSpec, loop: Scheduler[Any]) -> Mapping[str, Any]:
    """What `openimds status` shows first comes first."""
    kind, last = agent.trade.kind, loop.last_report
    if last is None:
        return {f"{kind}s": 0}
    return {
        f"{kind}s": last.resource_count,
        "last_change": _change_facts(loop.last_change) if loop.last_change else None,
        "failures": dict(last.failures),
        "last_round_milliseconds": last.milliseconds,
        "full_rounds": loop.resync_count,
        "full_round_milliseconds": loop.resync_milliseconds,
        f"by_{kind}": dict(agent.trade.report),
    }


def _change_facts(report: PassReport) -> Mapping[str, Any]:
    return {
        "at": report.ended_at.isoformat(timespec="milliseconds"),
        "changes": {key: list(words) for key, words in report.changes.items()},
    }
