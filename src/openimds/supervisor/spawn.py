"""Starting a part as a service manager does: its log as output, its kept sockets from descriptor 3 on."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openimds.runtime.fdstore import FIRST_FD
from openimds.supervisor.notify_socket import FdStoreServer

_SHELL = "/bin/sh"
_STEP = 'cd / && ulimit -S -n "$0" && exec "$@"'
_STEP_WITH_SOCKETS = f"export LISTEN_PID=$$ && {_STEP}"
"""Only the new process knows its own id, and LISTEN_PID says that the sockets are for it and not for a child of it."""


@dataclass(slots=True)
class Child:
    """A process that this one started, and has to wait for."""

    pid: int
    _code: int | None = field(default=None, repr=False)

    def wait(self) -> int:
        """How it ended: its exit code, or minus the signal that killed it."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnSpec:
    argv: Sequence[str]
    environment: Mapping[str, str]
    output: int
    """A descriptor: standard output and error."""
    open_files: int
    """The soft limit of open files, for a part without kept sockets; one with them gets all that it may have."""


def spawn(what: SpawnSpec, sockets: FdStoreServer) -> Child:
    """In a session of its own, in `/`. Raises OSError; a program that is not there is exit code 127."""
    kept = sockets.descriptors
    environment = {name: value for name, value in what.environment.items() if not name.startswith("LISTEN_")}
    limit = what.open_files
    if kept:
        environment |= {"LISTEN_FDS": str(len(kept)), "LISTEN_FDNAMES": ":".join(sockets.names)}
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    script = _STEP_WITH_SOCKETS if kept else _STEP
    pid = os.posix_spawn(
        _SHELL,
        [_SHELL, "-c", script, "unlimited" if limit == resource.RLIM_INFINITY else str(limit), *what.argv],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, what.output, 1),
            (os.POSIX_SPAWN_DUP2, what.output, 2),
            *_in_order(kept),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # what Python ignores
    )
    return Child(pid)


def _in_order(descriptors: Sequence[int]) -> list[tuple[int, ...]]:
    """Each to its place from 3 on; first out of the way, as one may have the number that another is to get."""
    aside = max([*descriptors, FIRST_FD + len(descriptors)], default=0) + 1
    return [
        *((os.POSIX_SPAWN_DUP2, descriptor, aside + index) for index, descriptor in enumerate(descriptors)),
        *((os.POSIX_SPAWN_DUP2, aside + index, FIRST_FD + index) for index in range(len(descriptors))),
        *((os.POSIX_SPAWN_CLOSE, aside + index) for index in range(len(descriptors))),
    ]
