"""Starts the process of a part as systemd does: output to the log file, stored sockets from descriptor 3 on."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openimds.runtime.fdstore import FIRST_FD
from openimds.supervisor.notify_socket import FdStoreServer

_SHELL = "/bin/sh"
_SCRIPT = 'cd / && ulimit -S -n "$0" && exec "$@"'
_SCRIPT_WITH_SOCKETS = f"export LISTEN_PID=$$ && {_SCRIPT}"
"""LISTEN_PID names the process that the sockets are for, and only the new process knows its own PID."""


@dataclass(slots=True)
class Child:
    """A child process, which must be waited for."""

    pid: int
    _code: int | None = field(default=None, repr=False)

    def wait(self) -> int:
        """Blocks until the exit. Returns the exit code, or the negative number of the signal that killed the process."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnSpec:
    argv: Sequence[str]
    environment: Mapping[str, str]
    output: int
    """The file descriptor for stdout and stderr."""
    open_files: int
    """The soft limit of open files without stored sockets. With stored sockets the soft limit of this process applies."""


def spawn(spec: SpawnSpec, sockets: FdStoreServer) -> Child:
    """Starts the process in a session of its own, in `/`.

    Raises OSError. If the program does not exist, the child ends with exit code 127.
    """
    stored = sockets.descriptors
    environment = {name: value for name, value in spec.environment.items() if not name.startswith("LISTEN_")}
    limit = spec.open_files
    if stored:
        environment |= {"LISTEN_FDS": str(len(stored)), "LISTEN_FDNAMES": ":".join(sockets.names)}
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    script = _SCRIPT_WITH_SOCKETS if stored else _SCRIPT
    pid = os.posix_spawn(
        _SHELL,
        [_SHELL, "-c", script, "unlimited" if limit == resource.RLIM_INFINITY else str(limit), *spec.argv],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, spec.output, 1),
            (os.POSIX_SPAWN_DUP2, spec.output, 2),
            *_to_consecutive(stored),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
    )
    return Child(pid)


def _to_consecutive(descriptors: Sequence[int]) -> list[tuple[int, ...]]:
    """File actions that move the descriptors to 3, 4, …

    All of them move to higher numbers first, because one may have the target number of another.
    """
    aside = max([*descriptors, FIRST_FD + len(descriptors)], default=0) + 1
    return [
        *((os.POSIX_SPAWN_DUP2, descriptor, aside + index) for index, descriptor in enumerate(descriptors)),
        *((os.POSIX_SPAWN_DUP2, aside + index, FIRST_FD + index) for index in range(len(descriptors))),
        *((os.POSIX_SPAWN_CLOSE, aside + index) for index in range(len(descriptors))),
    ]
