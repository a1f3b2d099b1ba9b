"""Programs: run to the end inside a namespace, or kept running by their pid file and their command line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence

from openimds.linux.errors import ProgramError
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netns import netns
from openimds.netconfig.namespace_state import Daemon

__all__ = ["PidFileDaemons", "ProgramError", "is_alive", "run", "terminate"]

STDERR_TAIL_CHARS = 600
POLL_SECONDS = 0.01
GONE, STOPPED = frozenset("ZX"), "T"


def run(
    argv: Sequence[str],
    *,
    namespace: str | None = None,
    stdin: str | None = None,
    timeout_seconds: float = 10,
) -> str:
    """What the program wrote to stdout. Raises ProgramError (not found, exit code not 0, time over)."""
    if namespace is None:
        return _run_here(argv, stdin, timeout_seconds)
    try:
        return netns.run_in(namespace, lambda: _run_here(argv, stdin, timeout_seconds))
    except netns.NamespaceMissingError as error:
        raise ProgramError(argv[0], str(error)) from error


def _run_here(argv: Sequence[str], stdin: str | None, timeout_seconds: float) -> str:
    """A child begins in the namespaces of the thread that starts it."""
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise ProgramError(argv[0], "is not installed (looked in PATH)") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramError(argv[0], f"did not end within {timeout_seconds:g} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-STDERR_TAIL_CHARS:]
        raise ProgramError(argv[0], f"exit code {done.returncode}: {said}", exit_code=done.returncode)
    return done.stdout


def is_alive(pid: int) -> bool:
    """A zombie is not: nobody may ever reap it, and it does nothing any more."""
    return _state(pid) not in GONE


def _state(pid: int) -> str:
    """proc_pid_stat(5); `X` also when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return "X"


class PidFileDaemons:
    """Programs that go on when their agent ends. Each turns itself into a daemon and writes its own pid file.

    `events` are told which processes are found running.
    """

    def __init__(self, events: HostMonitor | None = None) -> None:
        self._events = events

    def running_pid(self, daemon: Daemon) -> int | None:
        """Its pid, if it is alive, is really this program (pids are used again) and is in its namespace. One that somebody
        has stopped (SIGSTOP) takes requests and answers none: it does not run.
        """
        pid = _read_pid_file(daemon)
        if pid is None or _state(pid) in (*GONE, STOPPED) or _command_line(pid) != daemon.argv:
            return None
        if not netns.process_is_in(pid, daemon.namespace):
            return None
        if self._events:
            self._events.process(pid)
        return pid

    def start(self, daemon: Daemon, *, timeout_seconds: float = 10) -> int:
        """Its pid. Raises ProgramError with what the program said when it does not come up."""
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
        """One that goes on in a namespace which has lost its name, where nobody would find it any more."""
        pid = _read_pid_file(daemon)
        if pid is not None and _command_line(pid) == daemon.argv and not netns.process_is_in(pid, daemon.namespace):
            terminate(pid)

    def stop(self, daemon: Daemon, *, grace_seconds: float = 2) -> None:
        """SIGTERM, then SIGKILL. Idempotent; a pid that is another program by now is left alone."""
        pid = _read_pid_file(daemon)
        if pid is not None and _command_line(pid) == daemon.argv:
            terminate(pid, grace_seconds=grace_seconds)
        daemon.pid_file.unlink(missing_ok=True)

    def stop_stale(self, daemon: Daemon) -> None:
        """End what else runs under the same program's name in the same namespace: one that was started with another
        command line, or whose pid file somebody removed.
        """
        if not netns.has_sockets(daemon.namespace):
            return  # whoever would be in the way has some; a new namespace's /proc need not be searched
        recorded = self.running_pid(daemon)
        for pid in netns.processes_in(daemon.namespace):
            if pid != recorded and _command_line(pid)[:1] == daemon.argv[:1]:
                terminate(pid)

    def send_signal(self, daemon: Daemon, sent: signal.Signals) -> bool:
        """Whether there was somebody to send to."""
        pid = self.running_pid(daemon)
        if pid is None:
            return False
        os.kill(pid, sent)
        return True


def terminate(pid: int, *, grace_seconds: float = 2) -> None:
    """SIGTERM, and after the grace SIGKILL; returns when it is gone. Idempotent."""
    for sent, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        if not is_alive(pid):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
        deadline = time.monotonic() + seconds
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _read_pid_file(daemon: Daemon) -> int | None:
    try:
        return int(daemon.pid_file.read_text().strip())
    except (FileNotFoundError, ValueError):
        return None


def _command_line(pid: int) -> tuple[str, ...]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return tuple(os.fsdecode(part) for part in cmdline.read().split(b"\0")[:-1])
    except (FileNotFoundError, ProcessLookupError):
        return ()
