"""Processes that may outlive whoever started them: known by pid and start time, waited for by pidfd.

A pid alone is no name: it is used again. A pid and the time it started at is one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
START_TIME_FIELD = 19
"""Of /proc/<pid>/stat after the program's name, counted from 0 (proc_pid_stat(5), field 22)."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, for as long as this machine runs."""

    pid: int
    started_ticks: int
    """Clock ticks after the machine's start."""

    def is_alive(self) -> bool:
        return find(self.pid) == self

    def argv(self) -> tuple[str, ...]:
        """Its command line; empty when it is gone."""
        try:
            raw = (PROC / str(self.pid) / "cmdline").read_bytes()
        except OSError:
            return ()
        return tuple(os.fsdecode(word) for word in raw.split(b"\0")[:-1])

    def open_pidfd(self) -> int | None:
        """A descriptor that turns readable when the process ends; None: it has ended. The caller closes it."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.is_alive():
            return pidfd
        os.close(pidfd)
        return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to exactly this process; none if it is gone."""
        pidfd = self.open_pidfd()
        if pidfd is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        os.close(pidfd)

    def wait(self, timeout_seconds: float) -> bool:
        """Whether it has ended, at the latest after the time-out."""
        pidfd = self.open_pidfd()
        if pidfd is None:
            return True
        try:
            # A child that nobody has waited for yet counts as ended: its pidfd is readable.
            polling = select.poll()  # select(2) takes no descriptor above 1023
            polling.register(pidfd, select.POLLIN)
            return bool(polling.poll(max(0, timeout_seconds) * 1000))
        finally:
            os.close(pidfd)


def find(pid: int) -> Process | None:
    """The process that has this pid now, unless it has ended already (a zombie has)."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[START_TIME_FIELD]))


def all_processes() -> list[Process]:
    """All processes of this machine."""
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    return [process for pid in pids if (process := find(pid))]


def terminate(processes: list[Process], grace_seconds: float) -> list[Process]:
    """SIGTERM to all, SIGKILL after the grace to those left. Returns the ones that had to be killed."""
    for process in processes:
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    stubborn = [process for process in processes if not process.wait(deadline - time.monotonic())]
    for process in stubborn:
        process.send(signal.SIGKILL)
    for process in stubborn:
        process.wait(grace_seconds)
    return stubborn


def write_pid_file(process: Process, pid_file: Path) -> None:
    """Write the pid and the start time, a line each, whole or not at all."""
    draft = pid_file.with_suffix(".new")
    draft.write_text(f"{process.pid}\n{process.started_ticks}\n")
    draft.replace(pid_file)


def read_pid_file(pid_file: Path) -> Process | None:
    """The process that a pid file names, if it is still that one."""
    try:
        pid, started = pid_file.read_text().split()
        process = Process(int(pid), int(started))
    except (OSError, ValueError):
        return None
    return process if process.is_alive() else None


def current() -> Process:
    """This process."""
    own = find(os.getpid())
    assert own is not None, "/proc does not show this process"
    return own
