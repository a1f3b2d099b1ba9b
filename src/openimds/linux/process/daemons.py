"""Runs programs, and manages daemons by their pid file and command line."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence

import psutil

from openimds.linux.errors import ProgramError
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netns import netns
from openimds.linux.process import identity
from openimds.linux.process.by_namespace import process_is_in, processes_in
from openimds.linux.process.identity import command_line
from openimds.netconfig.namespace_state import Daemon

STDERR_TAIL_CHARS = 600
POLL_SECONDS = 0.01


def run(
    argv: Sequence[str],
    *,
    namespace: str | None = None,
    stdin: str | None = None,
    timeout_seconds: float = 10,
) -> str:
    """Runs a program to its end, in a network namespace if one is given, and returns its stdout.

    The program inherits no descriptor, and of the environment only PATH: that of an agent may contain passwords, and the
    address of the service manager's socket.

    Raises ProgramError if the program is not installed, exits with an error or times out.
    """
    if namespace is None:
        return _run_here(argv, stdin, timeout_seconds)
    try:
        return netns.run_in(namespace, lambda: _run_here(argv, stdin, timeout_seconds))
    except netns.NamespaceMissingError as error:
        raise ProgramError(argv[0], str(error)) from error


def _run_here(argv: Sequence[str], stdin: str | None, timeout_seconds: float) -> str:
    """Runs a program in the namespaces of the calling thread, which a child process inherits."""
    try:
        completed = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise ProgramError(argv[0], "is not installed (looked in PATH)") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramError(argv[0], f"did not end within {timeout_seconds:g} s") from error
    if completed.returncode != 0:
        output = (completed.stderr or completed.stdout).strip()[-STDERR_TAIL_CHARS:]
        raise ProgramError(argv[0], f"exit code {completed.returncode}: {output}", exit_code=completed.returncode)
    return completed.stdout


class PidFileDaemons:
    """Daemons that outlive their agent. Each program daemonizes itself and writes its own pid file.

    `monitor` watches the daemons that are found running.
    """

    def __init__(self, monitor: HostMonitor | None = None) -> None:
        self._monitor = monitor

    def running_pid(self, daemon: Daemon) -> int | None:
        """The pid of the daemon, or None if it does not run.

        The process must have the daemon's command line, because pids are reused, and be in its namespace. A stopped
        process (SIGSTOP) accepts connections without answering them, and counts as not running.
        """
        pid = _read_pid_file(daemon)
        if pid is None or not _is_running(pid, daemon.argv) or not process_is_in(pid, daemon.namespace):
            return None
        if self._monitor:
            self._monitor.watch_process(pid)
        return pid

    def start(self, daemon: Daemon, *, timeout_seconds: float = 10) -> int:
        """Starts the daemon and returns its pid. Raises ProgramError with the program's stderr if it does not start."""
        daemon.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self._end_in_former_namespace(daemon)
        daemon.pid_file.unlink(missing_ok=True)
        run(daemon.argv, namespace=daemon.namespace, timeout_seconds=timeout_seconds)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            pid = self.running_pid(daemon)
            if pid is not None:
                return pid
            time.sleep(POLL_SECONDS)
        raise ProgramError(daemon.name, f"started in {daemon.namespace}, but {daemon.pid_file} names no such process")

    def _end_in_former_namespace(self, daemon: Daemon) -> None:
        """Terminates the daemon in a namespace that lost its name. Such a process could not be found later."""
        pid = _read_pid_file(daemon)
        if pid is not None and command_line(pid) == daemon.argv and not process_is_in(pid, daemon.namespace):
            terminate(pid)

    def stop(self, daemon: Daemon, *, grace_seconds: float = 2) -> None:
        """Sends SIGTERM, then SIGKILL. Idempotent. Does nothing if the process has another command line."""
        pid = _read_pid_file(daemon)
        if pid is not None and command_line(pid) == daemon.argv:
            terminate(pid, grace_seconds=grace_seconds)
        daemon.pid_file.unlink(missing_ok=True)

    def stop_stale(self, daemon: Daemon) -> None:
        """Terminates other processes of the same program in the namespace.

        They were started with another command line, or their pid file was removed.
        """
        if not netns.has_sockets(daemon.namespace):
            return  # a stale daemon has sockets; this saves a scan of /proc for each new namespace
        recorded = self.running_pid(daemon)
        for pid in processes_in(daemon.namespace):
            if pid != recorded and command_line(pid)[:1] == daemon.argv[:1]:
                terminate(pid)

    def send_signal(self, daemon: Daemon, number: signal.Signals) -> bool:
        """Sends a signal. Returns False if the daemon does not run."""
        pid = self.running_pid(daemon)
        if pid is None:
            return False
        os.kill(pid, number)
        return True


def terminate(pid: int, *, grace_seconds: float = 2) -> None:
    """Sends SIGTERM, and SIGKILL after the grace period. Returns when the process is gone. Idempotent."""
    process = identity.find(pid)
    if process is not None:
        identity.terminate([process], grace_seconds)


def _is_running(pid: int, argv: tuple[str, ...]) -> bool:
    try:
        process = psutil.Process(pid)
        is_active = process.status() not in (*identity.ENDED, psutil.STATUS_STOPPED)
        return is_active and tuple(process.cmdline()) == argv
    except (psutil.Error, ValueError):
        return False


def _read_pid_file(daemon: Daemon) -> int | None:
    try:
        return int(daemon.pid_file.read_text().strip())
    except (FileNotFoundError, ValueError):
        return None
