"""The netns driver's guests: a small container each, in its own network namespace.

A guest's root is an unprivileged user of the host (`first_uid`), in a user namespace that also owns its network
namespace: it may do to its NICs and files what a machine's root may, and nothing to the host. Its file system is its
own folder with the host's /usr beneath it, read-only. It outlives the agent: found again by process id, the time that
process started at, and the boot's number, in `boot.pid`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openimds.linux.errors import ProgramError
from openimds.linux.netns import netns
from openimds.linux.netns_driver.bubblewrap import PATH, GuestSettings, bwrap_command, user_namespace_command
from openimds.netconfig.netns_instance import BootSpec, BootState

SCRIPTS = Path(__file__).parent
NS_GET_USERNS = 0xB701
"""ioctl_ns(2)"""
BOOT_MARKER = "openimds guest: booting"
"""Of boot.sh."""
START_TIMEOUT_SECONDS = 10.0
STOP_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _BootRecord:
    """What `boot.pid` says: `pid start_ticks generation`."""

    pid: int
    """The guest's process 1, by its number on the host."""
    start_ticks: int
    generation: int

    def is_alive(self) -> bool:
        return _start_ticks(self.pid) == self.start_ticks


class NetnsDriver:
    """All guests of this host, in `<state_path>/instances`. Not for several threads at the same guest."""

    def __init__(self, instances_dir: Path, settings: GuestSettings) -> None:
        self._dir = instances_dir
        self.settings = settings
        """May be replaced; counts from the next boot on."""

    def servers(self) -> set[str]:
        """Those that have a folder here."""
        try:
            return set(os.listdir(self._dir))
        except FileNotFoundError:
            return set()

    def state(self, server_id: str) -> BootState | None:
        """None: it was never started here."""
        started = self._started(server_id)
        return BootState(started.generation, started.is_alive()) if started else None

    def pids(self) -> set[int]:
        """The host's number of process 1 of each guest that runs."""
        found = (self._started(server_id) for server_id in self.servers())
        return {started.pid for started in found if started is not None and started.is_alive()}

    def start(self, boot: BootSpec) -> None:
        """Ends what still runs of an older boot. Raises ProgramError with a sentence."""
        self.stop(boot.server_id)
        netns.kill_processes_in(boot.namespace, grace_seconds=0.2)
        folder = self._dir / boot.server_id
        self._make_rootfs(folder)
        # A file of its own for each boot; written to from its end, so that it may be cut while it grows.
        self.console_file(boot.server_id).unlink(missing_ok=True)
        with contextlib.ExitStack() as files, self.console_file(boot.server_id).open("ab", buffering=0) as console:
            pid = self._launch(boot, folder / "rootfs", console.fileno(), files)
        self._wait_booting(boot.server_id, pid)
        record = folder / "boot.pid"
        draft = record.with_suffix(".new")
        draft.write_text(f"{pid} {_start_ticks(pid) or 0} {boot.generation}\n")
        draft.replace(record)

    def stop(self, server_id: str) -> bool:
        """True if it ran. Idempotent: its record stays, so that it counts as started and ended."""
        started = self._started(server_id)
        if started is None or not started.is_alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(started.pid, signal.SIGKILL)  # process 1 of its namespace: the others go with it
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while started.is_alive():
            if time.monotonic() > deadline:
                raise ProgramError("guest", f"process {started.pid} of server {server_id} does not end")
            time.sleep(0.005)
        return True

    def forget_boot(self, server_id: str) -> None:
        """Its machine is a new one: nothing was ever started on it."""
        self.stop(server_id)
        (self._dir / server_id / "boot.pid").unlink(missing_ok=True)

    def remove(self, server_id: str) -> None:
        """With its files. Idempotent."""
        self.stop(server_id)
        shutil.rmtree(self._dir / server_id, ignore_errors=True)

    def console_file(self, server_id: str) -> Path:
        return self._dir / server_id / "console.log"

    def _make_rootfs(self, folder: Path) -> None:
        """An empty folder of the guest's user. What is in it is made by the guest itself: the host follows none of
        its links.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        rootfs = folder / "rootfs"
        if not rootfs.exists():
            rootfs.mkdir(mode=0o755)
            os.chown(rootfs, self.settings.first_uid, self.settings.first_uid)

    def _launch(self, boot: BootSpec, rootfs: Path, console: int, files: contextlib.ExitStack) -> int:
        """The host's number of the guest's process 1."""
        user_namespace = files.enter_context(_user_namespace_of(boot.namespace))
        told, tell = os.pipe()
        files.callback(os.close, told)
        with contextlib.ExitStack() as inherited:
            inherited.callback(os.close, tell)
            texts = {"nics": boot.nics} | {name: (SCRIPTS / name).read_text() for name in ("boot.sh", "dhcp.sh")}
            pipes = {name: _pipe_containing(text, inherited) for name, text in texts.items()}
            argv = [
                *user_namespace_command(boot.namespace, user_namespace, rootfs, self.settings),
                *bwrap_command(pipes, tell, self.settings),
            ]
            try:
                # `setsid --fork` ends at once: the guest is nobody's child, and outlives whoever started it.
                subprocess.run(
                    ["setsid", "--fork", *argv],
                    pass_fds=(user_namespace, tell, *pipes.values()),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    cwd="/",
                    env={"PATH": PATH},
                    check=True,
                )
            except (OSError, subprocess.CalledProcessError) as error:
                raise ProgramError("setsid", f"cannot start a guest: {error}") from error
        return _read_child_pid(told, rootfs.parent / "console.log")

    def _wait_booting(self, server_id: str, pid: int) -> None:
        """Until the boot script speaks. Raises ProgramError with what bwrap said if it never comes to that."""
        console = self.console_file(server_id)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not (said := console.read_text(errors="replace")).startswith(BOOT_MARKER):
            if _start_ticks(pid) is None or time.monotonic() > deadline:
                raise ProgramError("bwrap", f"the guest did not start: {said.strip()[-400:] or 'no reason given'}")
            time.sleep(0.002)

    def _started(self, server_id: str) -> _BootRecord | None:
        try:
            return _BootRecord(*(int(word) for word in (self._dir / server_id / "boot.pid").read_text().split()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None


@contextlib.contextmanager
def _user_namespace_of(namespace: str) -> Iterator[int]:
    """A descriptor of the user namespace that owns a network namespace. Raises ProgramError if that is the host's own:
    a guest in it would be the host's root.
    """
    try:
        network = os.open(netns.namespace_path(namespace), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProgramError("guest", f"there is no network namespace {namespace}") from error
    try:
        owner = fcntl.ioctl(network, NS_GET_USERNS)
    finally:
        os.close(network)
    try:
        if os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino:
            raise ProgramError("guest", f"{namespace} belongs to the host itself: delete it, it will be made anew")
        yield owner
    finally:
        os.close(owner)


def _pipe_containing(text: str, files: contextlib.ExitStack) -> int:
    """The reading end of a pipe that holds the text. Raises ProgramError: it is more than a pipe holds (64 KiB)."""
    reading, writing = os.pipe()
    files.callback(os.close, reading)
    said = text.encode()
    try:
        os.set_blocking(writing, False)
        if os.write(writing, said) < len(said):
            raise ProgramError("guest", f"what it is to be told at its start is too long: {len(said)} bytes")
    finally:
        os.close(writing)
    return reading


def _read_child_pid(told: int, console: Path) -> int:
    """What bwrap says on its information pipe: `{"child-pid": 4711, …}`."""
    said = b""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([told], [], [], left)[0]:
            raise ProgramError("bwrap", f"did not start a guest within {START_TIMEOUT_SECONDS:g} s")
        chunk = os.read(told, 4096)
        said += chunk
        if b"}" in said:
            return int(json.loads(said)["child-pid"])
        if not chunk:
            reason = console.read_text(errors="replace")[-400:].strip()
            raise ProgramError("bwrap", f"the guest did not start: {reason or 'no reason given'}")


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks after the machine's start; None: it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
