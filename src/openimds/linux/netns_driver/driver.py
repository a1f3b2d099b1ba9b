"""The netns compute driver: each instance is a small container in its own network namespace.

Root in an instance is an unprivileged user of the host (`first_uid`). Its user namespace also owns its network
namespace, so it can do to its NICs and files what root of a machine can do, and nothing to the host. Its file system is
a disk of its own with the host's /usr, read-only. An instance outlives the agent, which finds it again by the
process ID, the start time and the boot generation in `boot.pid`.

A cgroup limits its memory and processes, and the size of its disk limits its files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from openimds.linux.errors import ProgramError
from openimds.linux.netns import netns
from openimds.linux.netns_driver import disk
from openimds.linux.netns_driver.bubblewrap import (
    PATH,
    GuestRoot,
    GuestSettings,
    bwrap_command,
    relay_command,
    user_namespace_command,
)
from openimds.linux.netns_driver.cgroups import GuestCgroups
from openimds.linux.process import identity
from openimds.linux.process.by_namespace import kill_processes_in
from openimds.linux.process.identity import Process
from openimds.linux.tree_removal import remove_tree
from openimds.netconfig.netns_instance import BootSpec, BootState

SCRIPTS = Path(__file__).parent
NS_GET_USERNS = 0xB701
"""ioctl_ns(2)"""
BOOT_MARKER = "openimds guest: booting"
"""The first line that boot.sh prints."""
START_TIMEOUT_SECONDS = 10.0
STOP_TIMEOUT_SECONDS = 5.0
REMOVED = ".removed-"
"""The prefix of a directory whose instance was deleted. A rename needs no space on a full disk."""
OUTER_PROCESSES = 4
"""bubblewrap itself, outside of the instance, a process that it starts, and the two of the console."""
MIB = 1024 * 1024
GIB = 1024 * MIB

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _BootRecord:
    """The contents of `boot.pid`: `pid start_ticks generation`."""

    process: Process
    """Process 1 of the instance."""
    generation: int


class NetnsDriver:
    """All instances of this host, in `<state_path>/instances`. Calls for one instance must not be concurrent."""

    def __init__(self, instances_dir: Path, settings: GuestSettings, cgroups: GuestCgroups) -> None:
        self._dir = instances_dir
        self._cgroups = cgroups
        self.settings = settings
        """May be replaced at any time. Takes effect at the next boot of an instance."""

    def servers(self) -> set[str]:
        """The instances that have a directory or a cgroup here."""
        return directories_of_instances(self._dir) | self._cgroups.names()

    def state(self, server_id: str) -> BootState | None:
        """The state of the last boot, or None if the instance was never started here."""
        record = self._boot_record(server_id)
        return BootState(record.generation, record.process.is_alive()) if record else None

    def pids(self) -> set[int]:
        """The host's pid of process 1 of each running instance."""
        records = (self._boot_record(server_id) for server_id in self.servers())
        return {record.process.pid for record in records if record is not None and record.process.is_alive()}

    def start(self, boot: BootSpec) -> None:
        """Boots an instance, after an earlier boot was stopped. Raises ProgramError."""
        self.stop(boot.server_id)
        kill_processes_in(boot.namespace, grace_seconds=0.2)
        folder = self._dir / boot.server_id
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            console = self.console_file(boot.server_id)
            console.unlink(missing_ok=True)  # each boot has a new file
            os.close(os.open(console, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with contextlib.ExitStack() as files:
                pid = self._launch(boot, self._root(folder, boot), files)
            self._wait_booting(boot.server_id, pid)
            self._write_record(folder / "boot.pid", pid, boot.generation)
        except BaseException:
            self._cgroups.remove(boot.server_id)
            kill_processes_in(boot.namespace, grace_seconds=0)
            raise

    def stop(self, server_id: str) -> bool:
        """Stops an instance. Returns False if it did not run. Idempotent.

        The record of the boot remains, so that the instance counts as started and ended.
        """
        record = self._boot_record(server_id)
        if record is None or not record.process.is_alive():
            self._cgroups.remove(server_id)
            return False
        # the kernel kills the other processes of the pid namespace with its process 1
        record.process.send(signal.SIGKILL)
        if not record.process.wait(STOP_TIMEOUT_SECONDS):
            raise ProgramError("guest", f"process {record.process.pid} of server {server_id} survives SIGKILL")
        self._cgroups.remove(server_id)
        return True

    def forget_boot(self, server_id: str) -> None:
        """Stops an instance and deletes the record of its boot, as if it was never started."""
        self.stop(server_id)
        (self._dir / server_id / "boot.pid").unlink(missing_ok=True)

    def remove(self, server_id: str) -> None:
        """Stops an instance and moves its files aside, where `delete_removed` deletes them. Idempotent."""
        self.stop(server_id)
        with contextlib.suppress(FileNotFoundError):
            (self._dir / server_id).rename(self._dir / f"{REMOVED}{server_id}.{secrets.token_hex(4)}")

    def delete_removed(self) -> None:
        """Deletes the files of removed instances, also those that an earlier process left. May take long."""
        delete_removed(self._dir)

    def console_file(self, server_id: str) -> Path:
        return self._dir / server_id / "console.log"

    def _root(self, folder: Path, boot: BootSpec) -> GuestRoot:
        """Creates the instance's root directory if it is missing. The host follows none of the symbolic links in it.

        The directory `rootfs` has no limit. It belongs to an instance of an earlier version, or to a host without loop
        devices.
        """
        rootfs, image = folder / "rootfs", folder / disk.FILE_NAME
        if rootfs.exists() or not disk.has_loop_devices():
            if disk.has_loop_devices():
                log.warning("guest disk without limit", server_id=boot.server_id)
            if not rootfs.exists():
                rootfs.mkdir(mode=0o755)
                os.chown(rootfs, self.settings.first_uid, self.settings.first_uid)
            return GuestRoot(rootfs, is_disk=False)
        size = boot.disk_gib * GIB or self.settings.disk.default_bytes
        disk.ensure(image, size, self.settings.disk, owner_uid=self.settings.first_uid)
        disk.wait_released(image)
        return GuestRoot(image, is_disk=True)

    def _write_record(self, path: Path, pid: int, generation: int) -> None:
        draft = path.with_suffix(".new")
        process = identity.find(pid)
        draft.write_text(f"{pid} {process.started_ticks if process else 0} {generation}\n")
        draft.replace(path)

    def _launch(self, boot: BootSpec, root: GuestRoot, files: contextlib.ExitStack) -> int:
        """Starts the first process and returns its pid on the host."""
        user_namespace = Path(f"/proc/{os.getpid()}/fd/{files.enter_context(_user_namespace_of(boot.namespace))}")
        memory_bytes = boot.memory_mib * MIB or self.settings.memory_bytes
        cgroups = self._cgroups.create(
            boot.server_id, memory_bytes=memory_bytes, processes=self.settings.processes + OUTER_PROCESSES
        )
        info, info_fd = os.pipe()
        files.callback(os.close, info)
        with contextlib.ExitStack() as inherited:
            inherited.callback(os.close, info_fd)
            scripts = {"nics": boot.nics} | {name: (SCRIPTS / name).read_text() for name in ("boot.sh", "dhcp.sh")}
            pipes = {name: _pipe_containing(text, inherited) for name, text in scripts.items()}
            argv = [
                *user_namespace_command(boot.namespace, user_namespace, root, cgroups, self.settings),
                *bwrap_command(pipes, info_fd, self.settings, memory_bytes=memory_bytes),
            ]
            console_read, console_write = os.pipe()
            inherited.callback(os.close, console_write)
            with open(console_read, "rb") as output:
                _start(relay_command(self.console_file(boot.server_id), cgroups), stdin=output.fileno())
            _start(argv, output=console_write, pass_fds=(info_fd, *pipes.values()))
        return _read_child_pid(info, root.path.parent / "console.log")

    def _wait_booting(self, server_id: str, pid: int) -> None:
        """Waits for the first output of boot.sh. Raises ProgramError with bubblewrap's message if there is none."""
        console = self.console_file(server_id)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not (output := console.read_text(errors="replace")).startswith(BOOT_MARKER):
            if not identity.is_alive(pid) or time.monotonic() > deadline:
                raise ProgramError("bwrap", f"the guest did not start: {output.strip()[-400:] or 'no reason given'}")
            time.sleep(0.002)

    def _boot_record(self, server_id: str) -> _BootRecord | None:
        try:
            pid, start_ticks, generation = (self._dir / server_id / "boot.pid").read_text().split()
            return _BootRecord(Process(int(pid), int(start_ticks)), int(generation))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None


def _start(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    output: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> None:
    """Starts a process that outlives this one, as a child of init. Raises ProgramError."""
    try:
        # `setsid --fork` exits immediately.
        subprocess.run(
            ["setsid", "--fork", *argv],
            pass_fds=pass_fds,
            stdin=stdin,
            stdout=output,
            stderr=output,
            cwd="/",
            env={"PATH": PATH},
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ProgramError("setsid", f"cannot start a guest: {error}") from error


def directories_of_instances(instances_dir: Path) -> set[str]:
    """The ids of the instances that have a directory."""
    try:
        return {name for name in os.listdir(instances_dir) if not name.startswith(REMOVED)}
    except FileNotFoundError:
        return set()


def delete_removed(instances_dir: Path) -> None:
    """Deletes the files of removed instances, and goes on after a failure. Raises OSError with the last one."""
    failure: OSError | None = None
    for path in sorted(instances_dir.glob(f"{REMOVED}*")):
        try:
            remove_tree(path)
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


@contextlib.contextmanager
def _user_namespace_of(namespace: str) -> Iterator[int]:
    """A descriptor of the user namespace that owns a network namespace.

    Raises ProgramError if it is the host's own user namespace: root in such an instance would be root of the host.
    """
    try:
        network = os.open(netns.namespace_path(namespace), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProgramError("guest", f"network namespace {namespace} does not exist") from error
    try:
        owner = fcntl.ioctl(network, NS_GET_USERNS)
    finally:
        os.close(network)
    try:
        if os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino:
            raise ProgramError(
                "guest",
                f"{namespace} is owned by the host's user namespace; delete it, then the agent creates it again",
            )
        yield owner
    finally:
        os.close(owner)


def _pipe_containing(text: str, files: contextlib.ExitStack) -> int:
    """The read end of a pipe that contains the text. Raises ProgramError if the text exceeds a pipe's capacity (64
    KiB).
    """
    read_end, write_end = os.pipe()
    files.callback(os.close, read_end)
    content = text.encode()
    try:
        os.set_blocking(write_end, False)
        if os.write(write_end, content) < len(content):
            raise ProgramError("guest", f"the boot data exceeds the capacity of a pipe: {len(content)} bytes")
    finally:
        os.close(write_end)
    return read_end


def _last_output(console: Path) -> str:
    """The end of the console. The process that writes it may be a moment behind."""
    deadline = time.monotonic() + 1.0
    while not (text := console.read_text(errors="replace")[-400:].strip()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return text


def _read_child_pid(info: int, console: Path) -> int:
    """Reads bubblewrap's information pipe: `{"child-pid": 4711, …}`."""
    output = b""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([info], [], [], left)[0]:
            raise ProgramError("bwrap", f"did not start a guest within {START_TIMEOUT_SECONDS:g} s")
        chunk = os.read(info, 4096)
        output += chunk
        if b"}" in output:
            return int(json.loads(output)["child-pid"])
        if not chunk:
            reason = _last_output(console)
            raise ProgramError("bwrap", f"the guest did not start: {reason or 'no reason given'}")
