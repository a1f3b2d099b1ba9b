"""Processes identified by pid and start time, which may outlive their parent. Waits use pidfds.

The kernel reuses pids, so a pid alone does not identify a process. The pair of pid and start time does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIME_FIELD = 19
"""The index after the program's name in /proc/<pid>/stat (proc_pid_stat(5), field 22)."""
ENDED = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
KILL_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process, identified until the machine reboots."""

    pid: int
    started_ticks: int
    """Start time in clock ticks since boot.

    psutil reports the start time as wall-clock time, which moves when the clock is set. This value does not.
    """

    def is_alive(self) -> bool:
        return find(self.pid) == self

    def argv(self) -> tuple[str, ...]:
        """The command line. Empty if the process is gone."""
        return command_line(self.pid)

    def open_pidfd(self) -> int | None:
        """A descriptor that becomes readable when the process ends, or None if it has ended.

        The caller closes the descriptor.
        """
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.is_alive():
            return pidfd
        os.close(pidfd)
        return None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to this process, never to a later one with its pid. Does nothing if the process is gone."""
        pidfd = self.open_pidfd()
        if pidfd is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        os.close(pidfd)

    def wait(self, timeout_seconds: float) -> bool:
        """Waits for the end of the process. Returns False after the timeout."""
        pidfd = self.open_pidfd()
        if pidfd is None:
            return True
        try:
            # The pidfd of a zombie is readable, so an unreaped child counts as ended.
            polling = select.poll()  # select(2) accepts no descriptor above 1023
            polling.register(pidfd, select.POLLIN)
            return bool(polling.poll(max(0, timeout_seconds) * 1000))
        finally:
            os.close(pidfd)


def find(pid: int) -> Process | None:
    """The process with this pid. None if there is none, or if it is a zombie."""
    try:
        process = Process(pid, _started_ticks(pid))
        return None if psutil.Process(pid).status() in ENDED else process
    except (OSError, IndexError, psutil.Error):
        return None


def is_alive(pid: int) -> bool:
    """True if a process with this pid runs. A zombie does not."""
    return find(pid) is not None


def command_line(pid: int) -> tuple[str, ...]:
    """The command line of the process with this pid. Empty if there is none."""
    try:
        return tuple(psutil.Process(pid).cmdline())
    except (psutil.Error, ValueError):
        return ()


def all_processes() -> list[Process]:
    """The processes of this machine, without zombies."""
    return [process for pid in psutil.pids() if (process := find(pid))]


def terminate(processes: list[Process], grace_seconds: float) -> list[Process]:
    """Sends SIGTERM, and SIGKILL to the processes that outlive the grace period. Returns the killed ones."""
    for process in processes:
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    killed = [process for process in processes if not process.wait(deadline - time.monotonic())]
    for process in killed:
        process.send(signal.SIGKILL)
    for process in killed:
        process.wait(KILL_TIMEOUT_SECONDS)
    return killed


def write_pid_file(process: Process, pid_file: Path) -> None:
    """Writes pid and start time, one per line. The file is replaced atomically."""
    draft = pid_file.with_suffix(".new")
    draft.write_text(f"{process.pid}\n{process.started_ticks}\n")
    draft.replace(pid_file)


def read_pid_file(pid_file: Path) -> Process | None:
    """The process that a pid file names, or None if it has ended or the file is missing."""
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


def _started_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        return int(stat.read().rpartition(")")[2].split()[START_TIME_FIELD])
