"""Cleanup after a test run that was killed.

The janitor is a separate process, started with the first registration. It waits until the test process ends. Then it kills
every process that has the run's mark in its environment, and removes the resources that are still registered.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from openimds.linux.configure.cleanup import remove_everything
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ConfigureError

MARK = "OPENIMDS_TEST_RUN"
_janitors: list[Janitor] = []


class Janitor:
    """The test process's side of the pipe to the cleanup process."""

    def __init__(self) -> None:
        os.environ[MARK] = secrets.token_hex(8)
        argv = [sys.executable, __file__, str(os.getpid()), os.environ[MARK]]
        # Without the mark, or it would kill itself. In a session of its own, or Ctrl-C would end it. Not a `Popen`, which
        # warns about a child that is still running at exit: the janitor outlives the run.
        others = {name: value for name, value in os.environ.items() if name != MARK}
        read, self._pipe = os.pipe()
        stdin = [(os.POSIX_SPAWN_DUP2, read, 0)]
        os.posix_spawn(argv[0], argv, others, file_actions=stdin, setsid=True)
        os.close(read)

    def send(self, what: str, folder: Path, prefix: str) -> None:
        os.write(self._pipe, (json.dumps([what, str(folder), prefix]) + "\n").encode())


def register_host(folder: Path, prefix: str) -> None:
    """Registers the namespaces, devices and tables of the ownership record in `folder`/owned."""
    _janitor().send("host", folder, prefix)


def register_cloud(state_dir: Path, prefix: str) -> None:
    """Registers a whole system, and the folder that contains its state folder."""
    _janitor().send("cloud", state_dir, prefix)


def unregister(folder: Path) -> None:
    """Removes the registration of `folder`."""
    _janitor().send("gone", folder, "")


def _janitor() -> Janitor:
    if not _janitors:
        _janitors.append(Janitor())
    return _janitors[0]


def main(run: int, mark: str) -> None:
    registered = _Registrations()
    # The end of the process and not of the pipe, which a child of the run may hold open. ProcessLookupError: the run has
    # ended already.
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(run)
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        waiting.register(sys.stdin, select.POLLIN)
        while not any(descriptor == pidfd for descriptor, _ in waiting.poll()):
            if not registered.read():
                waiting.unregister(sys.stdin)
    os.set_blocking(sys.stdin.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while registered.read():
            pass
    if registered.left:
        _end_marked(mark)
    for folder, (what, prefix) in registered.left.items():
        _remove_host(folder, prefix) if what == "host" else _remove_cloud(folder)


class _Registrations:
    """The registered resources, read from the pipe."""

    def __init__(self) -> None:
        self.left: dict[str, tuple[str, str]] = {}
        self._text = ""

    def read(self) -> bool:
        """Reads the lines that are in the pipe. False at its end."""
        read = os.read(sys.stdin.fileno(), 65536)
        *lines, self._text = (self._text + read.decode()).split("\n")
        for what, folder, prefix in map(json.loads, lines):
            self.left.pop(folder, None)
            if what != "gone":
                self.left[folder] = (what, prefix)
        return bool(read)


def _end_marked(mark: str) -> None:
    for _ in range(3):  # a process that is being started is seen in the next pass
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def _remove_host(folder: str, prefix: str) -> None:
    with contextlib.suppress(ConfigureError):
        remove_everything(OwnershipRecord(Path(folder) / "owned"), prefix)


def _remove_cloud(state_dir: str) -> None:
    down = [str(Path(sys.executable).with_name("openimds")), "down", "--purge", "--state-dir", state_dir]
    subprocess.run(down, check=False, capture_output=True)
    shutil.rmtree(Path(state_dir).parent, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
