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

from openimds.linux import netns
from openimds.linux.errors import ProgramError
from openimds.wiring.guest import GuestBoot, GuestState

SCRIPTS = Path(__file__).parent / "guest"
NS_GET_USERNS = 0xB701
"""ioctl_ns(2)"""
FIRST_WORDS = "openimds guest: booting"
"""Of boot.sh."""
START_TIMEOUT_SECONDS = 10.0
STOP_TIMEOUT_SECONDS = 5.0
STAND_IN = "/mnt"
"""Where the guest's folder is mounted, in a private mount namespace, before the guest's user takes over: that user may
not pass the folders above it."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSettings:
    first_uid: int
    metadata_tries: int
    metadata_delay_seconds: float
    request_timeout_seconds: float
    memory_bytes: int
    """Address space of one process."""
    processes: int
    file_bytes: int = 256 * 1024 * 1024
    """The largest file it may write."""


@dataclass(frozen=True, slots=True)
class _Started:
    """What `boot.pid` says: `pid start_ticks generation`."""

    pid: int
    """The guest's process 1, by its number on the host."""
    start_ticks: int
    generation: int

    def is_alive(self) -> bool:
        return _start_ticks(self.pid) == self.start_ticks


class NetnsGuests:
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

    def state(self, server_id: str) -> GuestState | None:
        """None: it was never started here."""
        started = self._started(server_id)
        return GuestState(started.generation, started.is_alive()) if started else None

    def pids(self) -> set[int]:
        """The host's number of process 1 of each guest that runs."""
        found = (self._started(server_id) for server_id in self.servers())
        return {started.pid for started in found if started is not None and started.is_alive()}

    def start(self, boot: GuestBoot) -> None:
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
        """Whether it ran. Idempotent: its record stays, so that it counts as started and ended."""
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

    def _launch(self, boot: GuestBoot, rootfs: Path, console: int, files: contextlib.ExitStack) -> int:
        """The host's number of the guest's process 1."""
        user_namespace = files.enter_context(_user_namespace_of(boot.namespace))
        told, tell = os.pipe()
        texts = {
            "nics": _pipe_with(boot.nics),
            "boot.sh": _pipe_with((SCRIPTS / "boot.sh").read_text()),
            "dhcp.sh": _pipe_with((SCRIPTS / "dhcp.sh").read_text()),
        }
        argv = [
            *_as_guest_root(boot.namespace, user_namespace, rootfs, self.settings),
            *_container(texts, tell, self.settings),
        ]
        inherited = (user_namespace, tell, *texts.values())
        try:
            # `setsid --fork` ends at once: the guest is nobody's child, and outlives whoever started it.
            subprocess.run(
                ["setsid", "--fork", *argv],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                env={"PATH": PATH},
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            os.close(told)
            raise ProgramError("setsid", f"cannot start a guest: {error}") from error
        finally:
            for descriptor in (tell, *texts.values()):
                os.close(descriptor)
        try:
            return _told_pid(told, rootfs.parent / "console.log")
        finally:
            os.close(told)

    def _wait_booting(self, server_id: str, pid: int) -> None:
        """Until the boot script speaks. Raises ProgramError with what bwrap said if it never comes to that."""
        console = self.console_file(server_id)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not (said := console.read_text(errors="replace")).startswith(FIRST_WORDS):
            if _start_ticks(pid) is None or time.monotonic() > deadline:
                raise ProgramError("bwrap", f"the guest did not start: {said.strip()[-400:] or 'no reason given'}")
            time.sleep(0.002)

    def _started(self, server_id: str) -> _Started | None:
        try:
            return _Started(*(int(word) for word in (self._dir / server_id / "boot.pid").read_text().split()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None


def _as_guest_root(namespace: str, user_namespace: int, rootfs: Path, settings: GuestSettings) -> list[str]:
    """Puts the guest's folder where its user may reach it, then becomes that user, within limits."""
    mounted = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return [
        *("unshare", "--mount", "--", "sh", "-c", mounted, "sh", str(rootfs), STAND_IN),
        "prlimit",
        f"--nproc={settings.processes}",
        f"--as={settings.memory_bytes}",
        f"--fsize={settings.file_bytes}",
        "--nofile=1024",
        "--core=0",
        *("nsenter", f"--user=/proc/self/fd/{user_namespace}", f"--net={netns.namespace_path(namespace)}"),
        *("--setuid", "0", "--setgid", "0", "--"),
    ]


def _container(texts: dict[str, int], tell: int, settings: GuestSettings) -> list[str]:
    scripts = [
        word
        for name, text in texts.items()
        for word in ("--perms", "0555", "--ro-bind-data", str(text), f"/run/openimds/{name}")
    ]
    delay = str(max(1, round(settings.metadata_delay_seconds * 100)))
    environment = {
        "PATH": PATH,
        "HOME": "/root",
        "TERM": "linux",
        "METADATA_TRIES": str(settings.metadata_tries),
        "METADATA_DELAY_CENTISECONDS": delay,
        "REQUEST_TIMEOUT_SECONDS": f"{settings.request_timeout_seconds:g}",
    }
    return [
        *("bwrap", "--unshare-pid", "--unshare-uts", "--unshare-ipc", "--new-session", "--info-fd", str(tell)),
        *("--bind", STAND_IN, "/", *_system_folders(), "--proc", "/proc", "--dev", "/dev"),
        *("--tmpfs", "/run", "--dir", "/etc", "--dir", "/root"),
        *("--ro-bind-try", "/etc/alternatives", "/etc/alternatives"),
        *("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
        *scripts,
        "--clearenv",
        *(word for name, value in environment.items() for word in ("--setenv", name, value)),
        *("--chdir", "/", "--", "sh", "/run/openimds/boot.sh"),
    ]


def _system_folders() -> list[str]:
    """The host's programs and libraries, read-only. Each is a mount, also where the host has a link (/bin): a mount
    point stays in its place, whatever the guest does to its files.
    """
    folders = [path for name in ("bin", "sbin", "lib", "lib32", "lib64") if (path := Path("/", name)).is_dir()]
    return [
        "--ro-bind",
        "/usr",
        "/usr",
        *(word for path in folders for word in ("--ro-bind", str(path.resolve()), str(path))),
    ]


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


def _pipe_with(text: str) -> int:
    """The reading end of a pipe that holds the text (at most 64 KiB: a pipe's size)."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        os.write(writing, text.encode())
    finally:
        os.close(writing)
    return reading


def _told_pid(told: int, console: Path) -> int:
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
