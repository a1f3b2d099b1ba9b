"""The state of a part under the supervisor, and the registry of all parts, written to `run/status.json`."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from openimds.linux.process.identity import Process
from openimds.supervisor.notify_socket import FdStoreServer
from openimds.supervisor.service_spec import RestartBackoff, ServiceSpec
from openimds.supervisor.spawn import Child
from openimds.supervisor.state_dir import StateDir

READY_TIMEOUT_SECONDS = 60
"""The start timeout of a part that does not extend it (EXTEND_TIMEOUT_USEC, sd_notify(3))."""
MAX_EXTENSION_SECONDS = 3600


@dataclass(slots=True)
class Service:
    """A part and its state."""

    spec: ServiceSpec
    state: str = "not started"
    """`not started`, `starting`, `running`, `waiting` (for its restart), or `stopped`."""
    process: Process | None = None
    child: Child | None = None
    """None if the part does not run, or if an earlier supervisor started it."""
    pidfd: int | None = None
    since: str = ""
    started_at: float = 0.0
    restart_at: float | None = None
    backoff: RestartBackoff = field(default_factory=RestartBackoff)
    restarts: int = 0
    last_exit: str = ""
    digest: str = ""
    """The digest of what the process was started with (`service_spec.digest`)."""
    progress: str = ""
    """The last STATUS= of a part that is starting."""
    start_deadline: float = 0.0
    """The time.monotonic at which a start that is not ready has failed."""
    sockets: FdStoreServer = field(default_factory=FdStoreServer)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def name_and_progress(self) -> str:
        """`dhcp-agent (120 of 200 networks)`"""
        return f"{self.name} ({self.progress})" if self.progress else self.name

    def begin(self, process: Process, *, state: str, since: str) -> None:
        """Assigns a process that runs since `since`."""
        self.process, self.state, self.since, self.started_at = process, state, since, time.monotonic()
        self.progress, self.start_deadline = "", self.started_at + READY_TIMEOUT_SECONDS

    def apply_progress(self, fields: Mapping[str, str]) -> bool:
        """Applies STATUS= and EXTEND_TIMEOUT_USEC= of a starting part. Returns whether they changed anything."""
        before = (self.progress, self.start_deadline)
        extension = fields.get("EXTEND_TIMEOUT_USEC", "")
        if extension.isascii() and extension.isdigit():
            requested = time.monotonic() + min(int(extension) / 1_000_000, MAX_EXTENSION_SECONDS)
            self.start_deadline = max(self.started_at + READY_TIMEOUT_SECONDS, requested)
        self.progress = fields.get("STATUS", self.progress)
        return before != (self.progress, self.start_deadline)

    def report(self) -> dict[str, Any]:
        """The entry of the part in `status.json`.

        `said` is the progress of the start, and `ready_by` its deadline in seconds of CLOCK_MONOTONIC.
        """
        return {
            "name": self.name,
            "pid": self.process.pid if self.process else None,
            "state": self.state,
            "since": self.since,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "log": str(self.spec.log_file),
            "listens": self.spec.listens,
            "kept_sockets": len(self.sockets),
            "digest": self.digest,
            "said": self.progress,
            "ready_by": self.start_deadline,
        }


def exit_reason(child: Child | None) -> str:
    """Returns `exit code 1` or `killed by SIGKILL`. Blocks until the exit of a child that is still running."""
    if child is None:
        return "ended for an unknown reason, because an earlier supervisor started it"
    code = child.wait()
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def last_log_line(spec: ServiceSpec) -> str:
    """The last line of a part's log, and the path of the log."""
    try:
        lines = spec.log_file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
    return f"{last} (whole log: {spec.log_file})"


def utc_timestamp() -> str:
    """`2026-05-01T10:00:00Z`"""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ServiceRegistry:
    """All parts, in the order of the plan."""

    def __init__(self, specs: Sequence[ServiceSpec], folder: StateDir) -> None:
        self.folder = folder
        self.is_starting = False
        """True while the command `openimds up` waits for all parts to be ready."""
        self._services = {spec.name: Service(spec) for spec in specs}
        self._since = utc_timestamp()

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    def __getitem__(self, name: str) -> Service:
        return self._services[name]

    def with_pid(self, pid: int) -> Service | None:
        return next((each for each in self if each.process is not None and each.process.pid == pid), None)

    def report(self) -> list[dict[str, Any]]:
        return [service.report() for service in self]

    def write_status(self) -> None:
        status = {"supervisor": os.getpid(), "since": self._since, "parts": self.report()}
        # A full disk must not end the supervisor. `openimds status` then shows the previous state.
        with contextlib.suppress(OSError):
            self.folder.write_status(status)
