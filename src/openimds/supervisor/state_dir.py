"""The folder of everything `openimds up` keeps: who may look into it, what lies where, and its clearing."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openimds.runtime.lifecycle import StartupError

DEFAULT = Path("/var/lib/openimds")

OURS = (
    "etc", "run", "log", "images", "instances", "owned", "dhcp", "external", "ns-metadata-proxy", "ra", "rules",
    "metrics", "metadata_proxy", "haproxy_log", "openimds.sqlite", "openimds.sqlite-shm", "openimds.sqlite-wal",
)  # fmt: skip
"""What openimds makes in the folder; `down --purge` removes these and nothing else."""

SOCKET_PATH_BYTES = 107
"""sun_path of unix(7), without the closing NUL."""
LEAST_FREE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StateDir:
    path: Path

    def command(self, words: str) -> str:
        """The command line about this folder: `openimds down`, `openimds down --state-dir /srv/imds`."""
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
        """Where parts tell the supervisor of themselves."""
        return self.run / "notify"

    def pid_file(self, part: str) -> Path:
        return self.run / f"{part}.pid"

    def log_file(self, part: str) -> Path:
        return self.log / f"{part}.log"

    def restart_request(self, part: str) -> Path:
        """Its presence asks the supervisor to start the part again at once when it ends."""
        return self.run / f"{part}.restart"

    def prepare(self) -> None:
        """Make the folders. Raises CannotStartError with a sentence when the disk or the folder does not allow it."""
        longest = len(os.fsencode(self.path / "metadata_proxy"))
        if longest > SOCKET_PATH_BYTES:
            raise StartupError(
                f"the path of the state folder {self.path} is too long for the sockets in it "
                f"({longest} bytes, {SOCKET_PATH_BYTES} are possible): choose a shorter one with --state-dir"
            )
        with self.problems_told():
            # 0711: the namespace proxies, which are not root, must reach the socket; names are not theirs to list.
            for folder, mode in ((self.path, 0o711), (self.etc, 0o700), (self.run, 0o755), (self.log, 0o750)):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(mode)
            probe = self.run / "probe"
            probe.write_bytes(b"x")
            probe.unlink()
            space = os.statvfs(self.path)
        if space.f_bavail * space.f_frsize < LEAST_FREE_BYTES:
            raise StartupError(
                f"the state folder {self.path} is on a full disk ({space.f_bavail * space.f_frsize // 1024} KiB are "
                "free, 16 MiB are needed): free some space, or choose another folder with --state-dir"
            )

    @contextmanager
    def problems_told(self) -> Iterator[None]:
        """Turns an OSError into a sentence about this folder."""
        try:
            yield
        except OSError as error:
            raise StartupError(
                f"the state folder {self.path} cannot be written: {(error.strerror or str(error)).lower()} "
                f"({error.filename or self.path}): make it writable, or choose another one with --state-dir"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held by the one supervisor of this folder; the kernel lets go of it however that ends.

        Raises CannotStartError when another one holds it.
        """
        with self.problems_told():
            descriptor = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StartupError(
                    f"openimds is up already in {self.path}: see `{self.command('status')}`, or take it down with "
                    f"`{self.command('down')}`"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def write_secret_file(self, name: str, text: str) -> None:
        """A file in etc/ that only root may read, whole or not at all."""
        path = self.etc / name
        draft = path.with_name(f".{name}.new")
        with self.problems_told():
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            draft.replace(path)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """What the supervisor knows of its parts, for `openimds status`."""
        draft = self.run / ".status.json.new"
        draft.write_text(json.dumps(status))
        draft.replace(self.run / "status.json")

    def note_all_stopped(self) -> None:
        """After a supervisor that could not note it itself; nothing where there are no notes."""
        status = self.read_status()
        if status:
            with self.problems_told():
                self.write_status(status | {"parts": [part | {"state": "stopped"} for part in status.get("parts", [])]})

    def read_status(self) -> dict[str, Any]:
        """Empty when there is none, or none that can be read."""
        try:
            status = json.loads((self.run / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def purge(self) -> tuple[str, ...]:
        """Remove what openimds made. Returns the names of what is not ours and was left."""
        for name in OURS:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if not self.path.exists():
            return ()
        left = tuple(sorted(entry.name for entry in self.path.iterdir()))
        if not left:
            self.path.rmdir()
        return left
