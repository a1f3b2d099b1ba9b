"""The command line that a guest's programs run under: its user, its limits, and what of the host it sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openimds.linux.netns import netns

ROOTFS_MOUNT = "/mnt"
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


def user_namespace_command(namespace: str, user_namespace: int, rootfs: Path, settings: GuestSettings) -> list[str]:
    """Puts the guest's folder where its user may reach it, then becomes that user, within limits."""
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


def bwrap_command(texts: dict[str, int], tell: int, settings: GuestSettings) -> list[str]:
    """Of bubblewrap. `texts`: the descriptors that the guest's scripts are read from; `tell`: one to say its pid on."""
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
        *("--bind", ROOTFS_MOUNT, "/", *_system_mounts(), "--proc", "/proc", "--dev", "/dev"),
        *("--tmpfs", "/run", "--dir", "/etc", "--dir", "/root"),
        *("--ro-bind-try", "/etc/alternatives", "/etc/alternatives"),
        *("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
        *scripts,
        "--clearenv",
        *(word for name, value in environment.items() for word in ("--setenv", name, value)),
        *("--chdir", "/", "--", "sh", "/run/openimds/boot.sh"),
    ]


def _system_mounts() -> list[str]:
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
