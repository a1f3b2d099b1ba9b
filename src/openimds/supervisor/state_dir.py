"""The state folder of `openimds up`: paths, permissions, lock, status file, and removal."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openimds.linux.tree_removal import remove_tree
from openimds.runtime.host_checks import close_to_others
from openimds.runtime.lifecycle import StartupError

DEFAULT = Path("/var/lib/openimds")

OWN_FILES = (
    "etc", "run", "log", "images", "instances", "owned", "dhcp", "external", "ns-metadata-proxy", "ra", "rules",
    "metrics", "metadata_proxy", "haproxy_log", "store", "openimds.sqlite", "openimds.sqlite-shm", "openimds.sqlite-wal",
)  # fmt: skip
"""The files and folders that openimds creates in the state folder. `down --purge` removes these and nothing else."""

SOCKET_PATH_BYTES = 107
"""The maximum length of sun_path (unix(7)) without the final NUL."""
MIN_FREE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Purge:
    """The result of removing the state."""

    foreign: tuple[str, ...] = ()
    """The names of the files that openimds did not create. They remain."""
    mount_points: tuple[Path, ...] = ()
    """The folders that are mount points. They are empty and remain."""

    def sentences(self) -> list[str]:
        """The result for the operator."""
        kept = [f"{path} is a mount point: it is empty, and it was not removed" for path in self.mount_points]
        foreign = f"state removed, except for foreign files: {', '.join(self.foreign)}"
        return [*kept, foreign if self.foreign else "state removed"]


@dataclass(frozen=True, slots=True)
class StateDir:
    path: Path

    def command(self, words: str) -> str:
        """A command line for this folder: `openimds down`, or `openimds down --state-dir /srv/imds`."""
        return f"openimds {words}" + ("" if self.path == DEFAULT else f" --state-dir {self.path}")

    @property
    def etc(self) -> Path:
        return self.path / "etc"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def clouds_file(self) -> Path:
        return self.etc / "clouds.yaml"

    @property
    def supervisor_pid_file(self) -> Path:
        return self.run / "supervisor.pid"

    @property
    def notify_socket(self) -> Path:
        """The socket that parts send their notifications to."""
        return self.run / "notify"

    def pid_file(self, part: str) -> Path:
        return self.run / f"{part}.pid"

    def log_file(self, part: str) -> Path:
        return self.log / f"{part}.log"

    def restart_request(self, part: str) -> Path:
        """The file that makes the supervisor restart the part without a delay after its exit, while the file exists."""
        return self.run / f"{part}.restart"

    def prepare(self) -> None:
        """Creates the folders. Raises StartupError if they cannot be written or the disk is full."""
        longest = len(os.fsencode(self.path / "metadata_proxy"))
        if longest > SOCKET_PATH_BYTES:
            raise StartupError(
                f"the path of the state folder {self.path} is too long for the sockets in it "
                f"({longest} bytes; the limit is {SOCKET_PATH_BYTES}): choose a shorter one with --state-dir"
            )
        with self.reporting_errors():
            # 0711: HAProxy runs without root and must reach the socket, but has no need to list the folder.
            for folder, mode in ((self.path, 0o711), (self.etc, 0o700), (self.run, 0o700), (self.log, 0o700)):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(mode)
            probe = self.run / "probe"
            probe.write_bytes(b"x")
            probe.unlink()
            space = os.statvfs(self.path)
            close_to_others(self.path)
        if space.f_bavail * space.f_frsize < MIN_FREE_BYTES:
            raise StartupError(
                f"the state folder {self.path} is on a full disk ({space.f_bavail * space.f_frsize // 1024} KiB are "
                "free, 16 MiB are needed): free some space, or choose another folder with --state-dir"
            )

    @contextmanager
    def reporting_errors(self) -> Iterator[None]:
        """Converts an OSError of the block into a StartupError that names the state folder."""
        try:
            yield
        except OSError as error:
            raise StartupError(
                f"the state folder {self.path} cannot be written: {(error.strerror or str(error)).lower()} "
                f"({error.filename or self.path}): make it writable, or choose another one with --state-dir"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock of the folder's supervisor. The kernel releases the lock when the process ends in any way.

        Raises StartupError if another supervisor holds the lock.
        """
        with self.reporting_errors():
            descriptor = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StartupError(
                    f"openimds is already up in {self.path}: see `{self.command('status')}`, or stop it with "
                    f"`{self.command('down')}`"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def write_secret_file(self, name: str, text: str) -> None:
        """Writes a file in etc/ with mode 0600, atomically."""
        path = self.etc / name
        draft = path.with_name(f".{name}.new")
        with self.reporting_errors():
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            draft.replace(path)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Writes `run/status.json`, which `openimds status` reads."""
        draft = self.run / ".status.json.new"
        draft.write_text(json.dumps(status))
        draft.replace(self.run / "status.json")

    def mark_all_stopped(self) -> None:
        """Sets the state of all parts in `status.json` to `stopped`, for a supervisor that was killed."""
        status = self.read_status()
        if status:
            with self.reporting_errors():
                self.write_status(status | {"parts": [part | {"state": "stopped"} for part in status.get("parts", [])]})

    def read_status(self) -> dict[str, Any]:
        """Reads `status.json`. Returns an empty dict if the file is missing or invalid."""
        try:
            status = json.loads((self.run / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def purge(self) -> Purge:
        """Removes the files of openimds, and the folder if nothing else is in it.

        Raises StartupError after it has tried to remove each of them, so that one failure does not keep the others.
        """
        failures: list[str] = []
        mount_points = [self.path / name for name in OWN_FILES if not self._remove_own(name, failures)]
        if failures:
            raise StartupError(
                f"not everything in {self.path} could be removed: {'; '.join(failures)}; run "
                f"`{self.command('down')} --purge` again"
            )
        if not self.path.exists():
            return Purge()
        own = {path.name for path in mount_points} | ({"lost+found"} if self.path.is_mount() else set())
        foreign = sorted({entry.name for entry in self.path.iterdir()} - own)
        if not foreign and not mount_points and not _removed_folder(self.path):
            mount_points = [self.path]
        return Purge(tuple(foreign), tuple(mount_points))

    def _remove_own(self, name: str, failures: list[str]) -> bool:
        """Removes a file or folder. Returns False if it is a mount point, which is empty then."""
        path = self.path / name
        try:
            remove_tree(path)
        except OSError as error:
            if error.errno == errno.EBUSY and path.is_dir() and not any(path.iterdir()):
                return False
            failures.append(f"{path}: {(error.strerror or str(error)).lower()}")
        return True


def _removed_folder(path: Path) -> bool:
    """Removes an empty folder. Returns False if it is a mount point."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
