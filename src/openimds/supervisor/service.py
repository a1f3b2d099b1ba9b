"""A part under the supervisor: what becomes of it, how it ended, and what it said last.

The parts of one machine under one supervisor, and the notes of them that `openimds status` reads.
"""

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
"""For a part that does not ask for more (EXTEND_TIMEOUT_USEC, sd_notify(3))."""
MOST_EXTENSION_SECONDS = 3600


@dataclass(slots=True)
class Service:
    """A part, and what becomes of it."""

    part: ServiceSpec
    state: str = "not started"
    """`starting`, `running`, `waiting` (to be started again), `stopped`."""
    process: Process | None = None
    child: Child | None = None
    """None as well for one that an earlier supervisor started."""
    pidfd: int | None = None
    since: str = ""
    started_at: float = 0.0
    restart_at: float | None = None
    deaths: RestartBackoff = field(default_factory=RestartBackoff)
    restarts: int = 0
    last_exit: str = ""
    digest: str = ""
    """Of what it was started with."""
    said: str = ""
    """STATUS= of it, in its own words."""
    ready_by: float = 0.0
    """When a start that has not ended has failed; time.monotonic."""
    sockets: FdStoreServer = field(default_factory=FdStoreServer)

    @property
    def shown(self) -> str:
        """`dhcp-agent (120 of 200 networks)`"""
        return f"{self.part.name} ({self.said})" if self.said else self.part.name

    def begin(self, process: Process, *, state: str, since: str) -> None:
        """It runs, from `since` on."""
        self.process, self.state, self.since, self.started_at = process, state, since, time.monotonic()
        self.said, self.ready_by = "", self.started_at + READY_TIMEOUT_SECONDS

    def hear_of_start(self, fields: Mapping[str, str]) -> bool:
        """How far it is, and how much longer it may take; whether that is news."""
        before = (self.said, self.ready_by)
        extension = fields.get("EXTEND_TIMEOUT_USEC", "")
        if extension.isascii() and extension.isdigit():
            asked = time.monotonic() + min(int(extension) / 1_000_000, MOST_EXTENSION_SECONDS)
            self.ready_by = max(self.started_at + READY_TIMEOUT_SECONDS, asked)
        self.said = fields.get("STATUS", self.said)
        return before != (self.said, self.ready_by)

    def report(self) -> dict[str, Any]:
        """Its name, pid, state, since, restarts, last exit, log file, where it listens, how many sockets are kept, what
        it says of its start, and until when (CLOCK_MONOTONIC, in seconds) that may take.
        """
        return {
            "name": self.part.name,
            "pid": self.process.pid if self.process else None,
            "state": self.state,
            "since": self.since,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "log": str(self.part.log_file),
            "listens": self.part.listens,
            "kept_sockets": len(self.sockets),
            "digest": self.digest,
            "said": self.said,
            "ready_by": self.ready_by,
        }


def exit_reason(child: Child | None) -> str:
    """`exit code 1`, `killed by SIGKILL`; of a process that has ended, or is about to."""
    if child is None:
        return "ended; an earlier supervisor started it, so how is not known"
    code = child.wait()
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def last_log_line(part: ServiceSpec) -> str:
    """The last thing that a part said, and where all of it is."""
    try:
        lines = part.log_file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{said} (all of its log: {part.log_file})"


def now() -> str:
    """`2026-05-01T10:00:00Z`"""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ServiceRegistry:
    """In the order in which they were planned."""

    def __init__(self, planned: Sequence[ServiceSpec], folder: StateDir) -> None:
        self.folder = folder
        self.is_starting = False
        """Whoever asked for the parts still waits until all are ready."""
        self._supervised = {part.name: Service(part) for part in planned}
        self._since = now()

    def __iter__(self) -> Iterator[Service]:
        return iter(self._supervised.values())

    def __getitem__(self, name: str) -> Service:
        return self._supervised[name]

    def with_pid(self, pid: int) -> Service | None:
        return next((each for each in self if each.process is not None and each.process.pid == pid), None)

    def report(self) -> list[dict[str, Any]]:
        return [each.report() for each in self]

    def note(self) -> None:
        """Write down how things are."""
        status = {"supervisor": os.getpid(), "since": self._since, "parts": self.report()}
        # A full disk must not end the supervision; `status` then shows what was known before.
        with contextlib.suppress(OSError):
            self.folder.write_status(status)
