"""Takes away what a test run made when the run itself cannot any more: it was killed.

A process of its own, started when the first thing is noted. It waits for the run's end; whatever was noted and not
forgotten by then is removed, after every process that has the run's mark in its environment was ended.
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
    """What this run has on the machine, told to the process that outlives it."""

    def __init__(self) -> None:
        os.environ[MARK] = secrets.token_hex(8)
        argv = [sys.executable, __file__, str(os.getpid()), os.environ[MARK]]
        # Without the mark it would end itself; in a session of its own no terminal's signal reaches it. Nobody waits for
        # it: it outlives the run, so it is no `Popen`, which would complain of that.
        others = {name: value for name, value in os.environ.items() if name != MARK}
        read, self._pipe = os.pipe()
        stdin = [(os.POSIX_SPAWN_DUP2, read, 0)]
        os.posix_spawn(argv[0], argv, others, file_actions=stdin, setsid=True)
        os.close(read)

    def tell(self, what: str, folder: Path, prefix: str) -> None:
        os.write(self._pipe, (json.dumps([what, str(folder), prefix]) + "\n").encode())


def note_host(folder: Path, prefix: str) -> None:
    """Namespaces, devices and tables by the ledger in `folder`/owned."""
    _janitor().tell("host", folder, prefix)


def note_cloud(state_dir: Path, prefix: str) -> None:
    """A whole system, and the folder its state folder lies in."""
    _janitor().tell("cloud", state_dir, prefix)


def forget(folder: Path) -> None:
    """It is gone."""
    _janitor().tell("gone", folder, "")


def _janitor() -> Janitor:
    if not _janitors:
        _janitors.append(Janitor())
    return _janitors[0]


def main(run: int, mark: str) -> None:
    noted = _Noted()
    # The run's end, not the pipe's: a child of the run may hold the pipe open. Before this line it may have ended too.
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(run)
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        waiting.register(sys.stdin, select.POLLIN)
        while not any(descriptor == pidfd for descriptor, _ in waiting.poll()):
            if not noted.read():
                waiting.unregister(sys.stdin)
    os.set_blocking(sys.stdin.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while noted.read():
            pass
    if noted.left:
        _end_marked(mark)
    for folder, (what, prefix) in noted.left.items():
        _remove_host(folder, prefix) if what == "host" else _remove_cloud(folder)


class _Noted:
    """What is on the machine, as far as the pipe was read."""

    def __init__(self) -> None:
        self.left: dict[str, tuple[str, str]] = {}
        self._text = ""

    def read(self) -> bool:
        """What is there; False at the pipe's end."""
        read = os.read(sys.stdin.fileno(), 65536)
        *lines, self._text = (self._text + read.decode()).split("\n")
        for what, folder, prefix in map(json.loads, lines):
            self.left.pop(folder, None)
            if what != "gone":
                self.left[folder] = (what, prefix)
        return bool(read)


def _end_marked(mark: str) -> None:
    for _ in range(3):  # what was just being started is seen the next time
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
