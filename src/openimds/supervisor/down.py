"""`openimds down`: whatever is left of an `up`, also after a crash or kill -9, goes away."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from openimds.config import ConfigError
from openimds.config.programs import PROGRAMS
from openimds.linux.configure.cleanup import remove_everything
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ConfigureError
from openimds.linux.process import identity
from openimds.linux.process.identity import Process
from openimds.runtime import metrics
from openimds.runtime.lifecycle import StartupError
from openimds.supervisor.state_dir import StateDir

log = structlog.get_logger(__name__)

SUPERVISOR_SECONDS = 60
"""The supervisor stops its parts and cleans up before it ends."""
PART_GRACE_SECONDS = 10

Say = Callable[[str], None]


def down(state_dir: Path, say: Say, *, purge: bool) -> None:
    """Stop the supervisor, the parts, what they started, and remove what they made; idempotent.

    The state (store, images, configuration) is kept unless `purge`. Raises CannotStartError.
    """
    folder = StateDir(state_dir.absolute())
    if not folder.path.exists():
        say(f"nothing is up in {folder.path}: there is no such folder")
        return
    if _stop_supervisor(folder):
        say("the supervisor has stopped")
    stopped = stop_parts(folder)
    if stopped:
        say("stopped: " + ", ".join(stopped))
    shutil.rmtree(folder.path / metrics.FOLDER, ignore_errors=True)  # what killed ones left
    removed = remove_what_agents_made(folder, namespace_prefix(folder))
    say(f"removed {len(removed)} namespaces, devices and tables" if removed else "nothing was left to remove")
    folder.supervisor_pid_file.unlink(missing_ok=True)
    folder.note_all_stopped()
    if purge:
        left = folder.purge()
        say(f"the state is gone; not ours and left: {', '.join(left)}" if left else "the state is gone")
    else:
        say(f"the state is kept in {folder.path}")


def stop_parts(folder: StateDir) -> list[str]:
    """Stop every part that runs with this folder's files, whoever started it; their names."""
    found = _parts_running(folder)
    for process in identity.terminate([process for _, process in found], PART_GRACE_SECONDS):
        log.warning("a part had to be killed: it did not stop in time", pid=process.pid)
    for name in PROGRAMS:
        folder.pid_file(name).unlink(missing_ok=True)
    return sorted({name for name, _ in found})


def remove_what_agents_made(folder: StateDir, prefix: str) -> tuple[str, ...]:
    """Namespaces with all that runs in them, devices, firewall tables. Raises CannotStartError with what stayed."""
    try:
        return remove_everything(OwnershipRecord(folder.path / "owned"), prefix)
    except ConfigureError as error:
        raise StartupError(f"not everything could be removed: {error}; run `{folder.command('down')}` again") from error


def namespace_prefix(folder: StateDir) -> str:
    """As the folder's files say."""
    names = ("neutron.conf", "compute_agent.ini", "up.conf")
    files = [str(folder.etc / name) for name in names if (folder.etc / name).exists()]
    try:
        return PROGRAMS["compute-agent"].load(files).namespace_prefix if files else ""
    except ConfigError:
        return ""


def _stop_supervisor(folder: StateDir) -> bool:
    supervisor = identity.read_pid_file(folder.supervisor_pid_file)
    if supervisor is None:
        return False
    supervisor.send(signal.SIGTERM)
    if not supervisor.wait(SUPERVISOR_SECONDS):
        log.warning("the supervisor had to be killed: it did not stop in time", pid=supervisor.pid)
        supervisor.send(signal.SIGKILL)
        supervisor.wait(PART_GRACE_SECONDS)
    folder.supervisor_pid_file.unlink(missing_ok=True)
    return True


def _parts_running(folder: StateDir) -> list[tuple[str, Process]]:
    """By their command lines: a supervisor that was killed between a start and the note of it left no pid file."""
    own_files = f"{folder.etc}/"
    found = []
    for process in identity.all_processes():
        argv = process.argv()
        name = next((word for word in argv[1:4] if word in PROGRAMS), None)
        if name and "--config-file" in argv and any(word.startswith(own_files) for word in argv):
            found.append((name, process))
    return found
