"""The command line of an instance's first process: its user, its limits, and the parts of the host that it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openimds.linux.netns import netns
from openimds.linux.netns_driver.disk import MOUNT_OPTIONS, DiskSettings

ROOTFS_MOUNT = "/mnt"
"""The mount point of the instance's root directory, in a private mount namespace.

It is mounted before the instance's user takes over, because that user cannot traverse the directories above it.
"""
_JOIN = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit 1; shift; done; shift && exec "$@"'
_MOUNT = 'mount -n "$1" "$2" "$3" "$4" && { rmdir "$4/lost+found" 2>/dev/null; shift 4; exec "$@"; }'
_RELAY = """
echo -1000 >/proc/self/oom_score_adj
umask 077
while stdbuf -o0 head -c "$2" >>"$1" && [ "$(stat -c %s "$1")" -ge "$2" ]; do
    tail -c "$3" "$1" >"$1.tail" && mv -f "$1.tail" "$1" || : >"$1"
done
"""
"""A file that is smaller than the quantity of one copy was copied up to the end of the input."""
CONSOLE_COPIED_BYTES = 768 * 1024
CONSOLE_KEPT_BYTES = 256 * 1024
"""The console file has at most the sum. It is then replaced by its end, which the agent may not have uploaded yet."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSettings:
    first_uid: int
    metadata_tries: int
    metadata_delay_seconds: float
    request_timeout_seconds: float
    memory_bytes: int
    """The address space of one process."""
    processes: int
    """The processes of an instance. The cgroup and RLIMIT_NPROC have this limit."""
    file_bytes: int = 256 * 1024 * 1024
    """The size limit of a file."""
    disk: DiskSettings = field(default_factory=DiskSettings)


@dataclass(frozen=True, slots=True)
class GuestRoot:
    """The root directory of an instance: a disk with a file system, or a directory."""

    path: Path
    is_disk: bool

    @property
    def mount_arguments(self) -> tuple[str, str]:
        return ("-text4", f"-o{MOUNT_OPTIONS}") if self.is_disk else ("-onosuid,nodev", "--bind")


def user_namespace_command(
    namespace: str, user_namespace: Path, root: GuestRoot, cgroups: Sequence[Path], settings: GuestSettings
) -> list[str]:
    """Joins the cgroups, mounts the root directory where the instance's user can reach it, then becomes that user.

    `user_namespace` is a path of the namespace and not an inherited descriptor, which the instance would inherit too.
    `cgroups` are the files that a process joins a cgroup by.
    """
    return [
        *("sh", "-c", _JOIN, "sh", *map(str, cgroups), "--"),
        *("unshare", "--mount", "--", "sh", "-c", _MOUNT, "sh", *root.mount_arguments, str(root.path), ROOTFS_MOUNT),
        "prlimit",
        f"--nproc={settings.processes}",
        f"--as={settings.memory_bytes}",
        f"--fsize={settings.file_bytes}",
        "--nofile=1024",
        "--core=0",
        *("nsenter", f"--user={user_namespace}", f"--net={netns.namespace_path(namespace)}"),
        *("--setuid", "0", "--setgid", "0", "--"),
    ]


def relay_command(console: Path, cgroups: Sequence[Path]) -> list[str]:
    """Copies standard input into the console file, which it replaces by its end before it exceeds 1 MiB.

    An instance has no descriptor of the file, so it cannot fill the host's disk with its output, also while no agent
    runs. `head` without a buffer writes what it reads immediately, and counts bytes. The kernel does not choose the process when memory is short.
    """
    joined = ("sh", "-c", _JOIN, "sh", *map(str, cgroups), "--")
    return [*joined, "sh", "-c", _RELAY, "sh", str(console), str(CONSOLE_COPIED_BYTES), str(CONSOLE_KEPT_BYTES)]


def bwrap_command(scripts: dict[str, int], info_fd: int, settings: GuestSettings, *, memory_bytes: int) -> list[str]:
    """The bubblewrap command line. `memory_bytes` is the memory of the instance, of which the tmpfs of `/run` and of
    `/dev/shm` may take a quarter each.

    `scripts` maps the names of the instance's files to the descriptors from which bubblewrap reads them. bubblewrap
    writes the pid of the first process to `info_fd`.
    """
    script_mounts = [
        word
        for name, descriptor in scripts.items()
        for word in ("--perms", "0555", "--ro-bind-data", str(descriptor), f"/run/openimds/{name}")
    ]
    tmpfs_bytes = str(memory_bytes // 4)
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
        *("bwrap", "--unshare-pid", "--unshare-uts", "--unshare-ipc", "--new-session", "--info-fd", str(info_fd)),
        *("--bind", ROOTFS_MOUNT, "/", *_system_mounts(), "--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", tmpfs_bytes, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
        *("--size", tmpfs_bytes, "--tmpfs", "/run", "--dir", "/etc", "--dir", "/root"),
        *("--ro-bind-try", "/etc/alternatives", "/etc/alternatives"),
        *("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
        *script_mounts,
        "--clearenv",
        *(word for name, value in environment.items() for word in ("--setenv", name, value)),
        *("--chdir", "/", "--", "sh", "/run/openimds/boot.sh"),
    ]


def _system_mounts() -> list[str]:
    """The host's programs and libraries, read-only.

    Each is a mount, also where the host has a symbolic link (/bin). A guest cannot replace a mount point.
    """
    directories = [path for name in ("bin", "sbin", "lib", "lib32", "lib64") if (path := Path("/", name)).is_dir()]
    return [
        "--ro-bind",
        "/usr",
        "/usr",
        *(word for path in directories for word in ("--ro-bind", str(path.resolve()), str(path))),
    ]
