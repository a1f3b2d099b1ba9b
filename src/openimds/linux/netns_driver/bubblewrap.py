"""The command line of an instance's first process: its user, its limits, and the parts of the host that it sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openimds.linux.netns import netns

ROOTFS_MOUNT = "/mnt"
"""The mount point of the instance's root directory, in a private mount namespace.

It is mounted before the instance's user takes over, because that user cannot traverse the directories above it.
"""
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
    file_bytes: int = 256 * 1024 * 1024
    """The size limit of a file."""


def user_namespace_command(namespace: str, user_namespace: int, rootfs: Path, settings: GuestSettings) -> list[str]:
    """Mounts the root directory where the instance's user can reach it, then becomes that user, with limits."""
    mounted = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return [
        *("unshare", "--mount", "--", "sh", "-c", mounted, "sh", str(rootfs), ROOTFS_MOUNT),
        "prlimit",
        f"--nproc={settings.processes}",
        f"--as={settings.memory_bytes}",
        f"--fsize={settings.file_bytes}",
        "--nofile=1024",
        "--core=0",
        *("nsenter", f"--user=/proc/self/fd/{user_namespace}", f"--net={netns.namespace_path(namespace)}"),
        *("--setuid", "0", "--setgid", "0", "--"),
    ]


def bwrap_command(scripts: dict[str, int], info_fd: int, settings: GuestSettings) -> list[str]:
    """The bubblewrap command line.

    `scripts` maps the names of the instance's files to the descriptors from which bubblewrap reads them. bubblewrap
    writes the pid of the first process to `info_fd`.
    """
    script_mounts = [
        word
        for name, descriptor in scripts.items()
        for word in ("--perms", "0555", "--ro-bind-data", str(descriptor), f"/run/openimds/{name}")
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
        *("bwrap", "--unshare-pid", "--unshare-uts", "--unshare-ipc", "--new-session", "--info-fd", str(info_fd)),
        *("--bind", ROOTFS_MOUNT, "/", *_system_mounts(), "--proc", "/proc", "--dev", "/dev"),
        *("--tmpfs", "/run", "--dir", "/etc", "--dir", "/root"),
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
