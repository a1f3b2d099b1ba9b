"""The processes in a network namespace."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence

import psutil

from openimds.linux.errors import ConfigureError
from openimds.linux.netns.netns import identity


def processes_in(*names: str) -> set[int]:
    """The processes in any of these network namespaces. Threads of this process are not counted."""
    targets = {identity(name) for name in names} - {None}
    if not targets:
        return set()
    return {pid for pid in psutil.pids() if _netns_identity(pid) in targets}


def process_is_in(pid: int, name: str) -> bool:
    target = identity(name)
    return target is not None and _netns_identity(pid) == target


def kill_processes_in(*names: str, grace_seconds: float = 1.0) -> None:
    """Sends SIGTERM to the processes in these namespaces, and SIGKILL after the grace period.

    Raises ConfigureError if a process survives both.
    """
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        remaining = processes_in(*names)
        if not remaining:
            return
        _signal_all(remaining, number)
        if _wait_gone(names, seconds):
            return
    left = ", ".join(str(pid) for pid in sorted(processes_in(*names)))
    if left:
        raise ConfigureError(", ".join(names), [f"processes survive SIGKILL: {left}"])


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _wait_gone(names: Sequence[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not processes_in(*names):
            return True
        time.sleep(0.01)
    return not processes_in(*names)


def _netns_identity(pid: int) -> tuple[int, int] | None:
    """The namespace of a process. None for a zombie, which has no namespace."""
    try:
        status = os.stat(f"/proc/{pid}/ns/net")
    except OSError:
        return None
    return status.st_dev, status.st_ino
