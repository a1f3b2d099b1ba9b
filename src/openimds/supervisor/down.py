"""`openimds down`: stops the parts and removes their resources, also after a crash or `kill -9` of the supervisor."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from openimds.config import ConfigError
from openimds.config.programs import PROGRAMS
from openimds.linux.configure.cleanup import remove_everything
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ConfigureError
from openimds.linux.netns_driver.driver import delete_removed
from openimds.linux.process import identity
from openimds.linux.process.identity import Process
from openimds.linux.tree_removal import remove_tree
from openimds.runtime import metrics
from openimds.runtime.lifecycle import StartupError
from openimds.supervisor.state_dir import StateDir

log = structlog.get_logger(__name__)

SUPERVISOR_SECONDS = 60
"""The stop timeout of the supervisor, which stops its parts and cleans up before it ends."""
PART_GRACE_SECONDS = 10

Echo = Callable[[str], None]


def down(state_dir: Path, echo: Echo, *, purge: bool) -> None:
    """Stops the supervisor and the parts, and removes the namespaces, devices and tables that they created.

    The function is idempotent. The state (store, images, configuration) is kept unless `purge`. Raises StartupError.
    """
    folder = StateDir(state_dir.absolute())
    if not folder.path.exists():
        echo(f"nothing is up in {folder.path}: the folder does not exist")
        return
    if _stop_supervisor(folder):
        echo("supervisor stopped")
    stopped = stop_parts(folder)
    if stopped:
        echo("stopped: " + ", ".join(stopped))
    remove_tree(folder.path / metrics.FOLDER)  # left behind by killed parts
    removed = remove_agent_resources(folder, namespace_prefix(folder))
    echo(f"removed {len(removed)} namespaces, devices and tables" if removed else "nothing was left to remove")
    folder.supervisor_pid_file.unlink(missing_ok=True)
    folder.mark_all_stopped()
    if purge:
        for sentence in folder.purge().sentences():
            echo(sentence)
    else:
        echo(f"the state is kept in {folder.path}")


def stop_parts(folder: StateDir) -> list[str]:
    """Stops every part that runs with this folder's configuration files, and returns the names of the parts."""
    found = _running_parts(folder)
    for process in identity.terminate([process for _, process in found], PART_GRACE_SECONDS):
        log.warning("part killed by `openimds down` after its stop timeout", pid=process.pid)
    for name in PROGRAMS:
        folder.pid_file(name).unlink(missing_ok=True)
    return sorted({name for name, _ in found})


def remove_agent_resources(folder: StateDir, prefix: str) -> tuple[str, ...]:
    """Removes namespaces and their processes, devices, and firewall tables. Returns the names of the removed objects.

    Raises StartupError if something could not be removed.
    """
    try:
        removed = remove_everything(OwnershipRecord(folder.path / "owned"), prefix)
        delete_removed(folder.path / "instances")
    except (ConfigureError, OSError) as error:
        raise StartupError(f"not everything could be removed: {error}; run `{folder.command('down')}` again") from error
    return removed


def namespace_prefix(folder: StateDir) -> str:
    """Reads the namespace prefix from the folder's configuration files. Returns "" if they are missing or invalid."""
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
        log.warning("supervisor killed after its stop timeout", pid=supervisor.pid)
        supervisor.send(signal.SIGKILL)
        supervisor.wait(PART_GRACE_SECONDS)
    folder.supervisor_pid_file.unlink(missing_ok=True)
    return True


def _running_parts(folder: StateDir) -> list[tuple[str, Process]]:
    """Finds parts by their command lines, because a supervisor that is killed during a start writes no PID file."""
    own_files = f"{folder.etc}/"
    found = []
    for process in identity.all_processes():
        argv = process.argv()
        name = next((word for word in argv[1:4] if word in PROGRAMS), None)
        if name and "--config-file" in argv and any(word.startswith(own_files) for word in argv):
            found.append((name, process))
    return found
