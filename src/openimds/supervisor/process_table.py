"""The parts' processes: started with their kept sockets, watched, and started again after they died."""

from __future__ import annotations

import math
import os
import selectors
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from openimds.linux.process import identity
from openimds.linux.process.identity import Process
from openimds.runtime.lifecycle import StartupError
from openimds.runtime.rlimits import raise_nofile
from openimds.supervisor import service_spec
from openimds.supervisor.service import Service, ServiceRegistry, exit_reason, now
from openimds.supervisor.spawn import Child, SpawnSpec, spawn

log = structlog.get_logger(__name__)


class ProcessTable:
    """Of one loop: it waits for their ends at `selector`, and calls what it finds there."""

    def __init__(
        self, roster: ServiceRegistry, selector: selectors.BaseSelector, *, notify_path: Path, hear: Callable[[], None]
    ) -> None:
        """`hear`: take in what parts said until now."""
        self._roster = roster
        self._selector = selector
        self._notify_path = notify_path
        self._hear = hear
        self._open_files = raise_nofile()

    def start(self, each: Service) -> None:
        """Raises CannotStartError."""
        each.restart_at = None
        each.digest = service_spec.digest(each.part)
        each.child = self._spawn(each)
        process = identity.find(each.child.pid)
        if process is None:
            # It ended before it could be looked at.
            each.process = None
            self._died(each)
            return
        with self._roster.folder.problems_told():
            identity.write_pid_file(process, each.part.pid_file)
        self.watch(each, process, state="starting", since=now())

    def watch(self, each: Service, process: Process, *, state: str, since: str) -> None:
        """It is this process from now on, until that ends."""
        each.begin(process, state=state, since=since)
        each.pidfd = os.pidfd_open(process.pid)
        self._selector.register(each.pidfd, selectors.EVENT_READ, lambda: self._died(each))
        self._roster.note()

    def reap(self, each: Service) -> None:
        """Its process has ended: how."""
        if each.pidfd is not None:
            self._selector.unregister(each.pidfd)
            os.close(each.pidfd)
        each.pidfd, each.process = None, None
        each.last_exit = exit_reason(each.child)
        each.child = None

    def seconds_to_next_restart(self) -> float:
        """Infinite: none is due."""
        due = [each.restart_at for each in self._roster if each.restart_at is not None]
        return max(0.0, min(due, default=math.inf) - time.monotonic())

    def due(self) -> Iterator[Service]:
        """Those whose time to be started again has come."""
        return (each for each in self._roster if each.restart_at is not None and each.restart_at <= time.monotonic())

    def restart(self, each: Service) -> None:
        """What cannot be started is tried again later."""
        each.restarts += 1
        try:
            self.start(each)
        except StartupError as error:
            each.deaths = each.deaths.after_one_more(0)
            each.restart_at = time.monotonic() + each.deaths.delay_seconds
            log.error("a part cannot be started", part=each.part.name, error=str(error))  # noqa: TRY400

    def _spawn(self, each: Service) -> Child:
        with self._roster.folder.problems_told():
            output = each.part.log_file.open("ab")
        with output:
            what = SpawnSpec(
                argv=each.part.argv,
                environment=os.environ | {"NOTIFY_SOCKET": str(self._notify_path)},
                output=output.fileno(),
                open_files=self._open_files,
            )
            try:
                return spawn(what, each.sockets)
            except OSError as error:
                raise StartupError(f"{each.part.name} cannot be started: {error.strerror}") from error

    def _died(self, each: Service) -> None:
        self._hear()  # what it said before it ended
        pid = each.process.pid if each.process else None
        self.reap(each)
        request = self._roster.folder.restart_request(each.part.name)
        asked = request.exists()
        request.unlink(missing_ok=True)
        each.state = "waiting"
        each.since = now()
        if asked:
            each.restart_at = time.monotonic()
            log.info("a part is started again, as asked", part=each.part.name, pid=pid)
        else:
            each.deaths = each.deaths.after_one_more(time.monotonic() - each.started_at)
            each.restart_at = time.monotonic() + each.deaths.delay_seconds
            log.error(
                "a part died" if self._roster.is_starting else "a part died and will be started again",
                part=each.part.name, pid=pid, how=each.last_exit, in_seconds=each.deaths.delay_seconds,
            )  # fmt: skip
        self._roster.note()
