"""The cgroup of each guest: limits of its memory and of the number of its processes (docs/decisions/guest-limits.md).

A guest's cgroup is `<mount>/openimds/<server id>`; with the namespace prefix `lab1-`, `<mount>/openimds_lab1/<server id>`.
cgroup v2 has one mount, v1 has one for each controller. A host that has the controllers in v1 has no others in v2.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import structlog

from openimds.linux.errors import ProgramError
from openimds.linux.firewall.notrack import table_name

CONTROLLERS = ("memory", "pids")
LIMITS = {
    "memory.max": "memory",
    "memory.swap.max": "swap",
    "memory.limit_in_bytes": "memory",
    "memory.memsw.limit_in_bytes": "memory",
    "pids.max": "processes",
}
"""The files of v2, then those of v1, and the limit that each contains. `memsw` is memory and swap together, and absent
without accounting of swap."""
EMPTY_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.005

log = structlog.get_logger(__name__)


class GuestCgroups:
    """The cgroups of the guests of one system. `prefix` is the option `namespace_prefix`. Thread-safe."""

    def __init__(self, prefix: str = "", mounts: Path = Path("/proc/self/mounts")) -> None:
        name = table_name(prefix)
        found = _mounts_of_controllers(mounts)
        self._roots = {mount / name: controllers for mount, controllers in found.items()}
        self.missing = tuple(sorted(set(CONTROLLERS) - {each for some in found.values() for each in some}))
        """The controllers that this host does not have. Their limits are not in force."""

    def create(self, name: str, *, memory_bytes: int, processes: int) -> tuple[Path, ...]:
        """Creates the cgroup of a guest, without processes, and returns the files that a process joins it by.

        Ends the processes of an earlier one. Raises ProgramError.
        """
        self.remove(name)
        limits = {"memory": memory_bytes, "swap": 0, "processes": processes}
        try:
            for root, controllers in self._roots.items():
                _prepare(root, controllers)
                group = root / name
                group.mkdir()
                for file, limit in LIMITS.items():
                    if file.partition(".")[0] in controllers and (group / file).exists():
                        (group / file).write_text(str(limits[limit]))
        except OSError as error:
            self.remove(name)
            raise ProgramError("cgroup", f"cannot limit the guest {name}: {error}") from error
        return tuple(root / name / "cgroup.procs" for root in self._roots)

    def names(self) -> set[str]:
        """The guests that have a cgroup here."""
        return {name for root in self._roots for name in _subfolders(root)}

    def remove(self, name: str) -> None:
        """Kills the processes of a guest and removes its cgroup. Idempotent. Raises ProgramError."""
        for root in self._roots:
            if (root / name).exists():
                _remove_group(root / name)

    def remove_all(self, owned: Collection[str]) -> tuple[str, ...]:
        """Removes the cgroups of these guests, and returns a description of each. Raises ProgramError.

        `owned` protects the guests of another system, if the prefix is not known any more.
        """
        names = sorted(self.names().intersection(owned))
        for name in names:
            self.remove(name)
        for root in self._roots:
            with contextlib.suppress(OSError):  # it does not exist, or it has other guests
                root.rmdir()
        return tuple(f"cgroup of {name}" for name in names)


def _mounts_of_controllers(mounts: Path) -> dict[Path, tuple[str, ...]]:
    """The mount points of the controllers, and the controllers at each."""
    found: dict[Path, tuple[str, ...]] = {}
    missing = set(CONTROLLERS)
    for _device, point, kind, options, *_ in _fields(mounts):
        if kind == "cgroup":
            present = set(options.split(","))
        elif kind == "cgroup2":
            present = set(_words(Path(point) / "cgroup.controllers"))
        else:
            continue
        if present & missing and os.access(point, os.W_OK):
            found[Path(point)] = tuple(sorted(present & missing))
            missing -= present
    return found


def _fields(mounts: Path) -> Iterator[list[str]]:
    for line in mounts.read_text().splitlines():
        if len(line.split()) >= 4:
            yield line.split()


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _prepare(root: Path, controllers: tuple[str, ...]) -> None:
    """Creates the folder of this system, and enables the controllers below it (v2 only).

    The folder itself has no processes, because a v2 cgroup with enabled controllers may have none.
    """
    root.mkdir(exist_ok=True)
    for folder in (root.parent, root):
        switches = folder / "cgroup.subtree_control"
        if switches.exists() and not set(controllers) <= set(_words(switches)):
            switches.write_text(" ".join(f"+{controller}" for controller in controllers))


def _remove_group(group: Path) -> None:
    """Kills the processes, and removes the cgroup with all cgroups below it as soon as the kernel has released them."""
    deadline = time.monotonic() + EMPTY_TIMEOUT_SECONDS
    while True:
        _kill(group)
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise ProgramError("cgroup", f"cannot remove {group}: {error.strerror}") from error
            time.sleep(POLL_SECONDS)
        else:
            return


def _kill(group: Path) -> None:
    """Sends SIGKILL to each process of a cgroup. Repeated calls end a fork bomb, because its number is limited."""
    for pid in _words(group / "cgroup.procs"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
