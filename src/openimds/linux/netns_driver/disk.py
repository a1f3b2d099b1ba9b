"""The disk of a guest: an ext4 file system in one file, on a loop device (docs/decisions/guest-limits.md).

Only the mount namespace of the guest has the mount. The kernel removes the mount and the loop device when the last
process of the guest ends. Deleting the disk is one unlink, whatever the guest has created on it.
"""

from __future__ import annotations

import fcntl
import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path

from openimds.linux.errors import ProgramError
from openimds.linux.process.daemons import run

FILE_NAME = "disk.img"
LOOP_CONTROL = "/dev/loop-control"
LOOP_CTL_GET_FREE = 0x4C82
LOOP_DEVICES = Path("/sys/block")
MOUNT_OPTIONS = "loop,nosuid,nodev,noatime,noinit_itable,errors=remount-ro"
"""`noinit_itable`: no kernel thread writes the empty inode tables, which read as zeros anyway."""
MIN_BYTES = 16 * 1024 * 1024
RELEASE_TIMEOUT_SECONDS = 5.0
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSettings:
    default_bytes: int = 256 * MIB
    """The size of the disk of a flavor without one."""
    reserved_bytes: int = 512 * MIB
    """The free space of the file system that disks leave to the store, the logs and the images."""
    preallocate: bool = True
    """Whether a disk takes its whole size at the first boot. Otherwise it grows, up to its size."""


@functools.cache
def has_loop_devices() -> bool:
    """Whether this process can use loop devices. A container without them has no `/dev/loop-control`."""
    try:
        control = os.open(LOOP_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
        os.close(os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        os.close(control)
    return True


def ensure(image: Path, size: int, settings: DiskSettings, *, owner_uid: int) -> None:
    """Creates the disk if it is missing. An existing disk keeps its size and content. Raises ProgramError."""
    if image.exists():
        return
    draft = image.with_suffix(".new")
    size = max(size, MIN_BYTES)
    try:
        _allocate(draft, size, settings)
        owner = f"root_owner={owner_uid}:{owner_uid}"
        options = f"{owner},nodiscard,lazy_itable_init=1,lazy_journal_init=1"
        run(["mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=4", "-E", options, str(draft)], timeout_seconds=60)
        draft.replace(image)
    except OSError as error:
        raise ProgramError("disk", f"cannot create a disk of {size // MIB} MiB: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)


def _allocate(draft: Path, size: int, settings: DiskSettings) -> None:
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        space = os.fstatvfs(descriptor)
        free = space.f_bavail * space.f_frsize
        needed = size if settings.preallocate else 0
        if free < needed + settings.reserved_bytes:
            raise ProgramError(
                "disk",
                f"this host has no space for a disk of {size // MIB} MiB: {free // MIB} MiB are free, and "
                f"{settings.reserved_bytes // MIB} MiB are reserved ([guest] reserved_disk_mib)",
            )
        os.posix_fallocate(descriptor, 0, size) if settings.preallocate else os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def wait_released(image: Path) -> None:
    """Waits until the mount of the previous boot is gone: two mounts of one disk would destroy its content.

    Raises ProgramError after a timeout.
    """
    name = os.path.realpath(image)
    deadline = time.monotonic() + RELEASE_TIMEOUT_SECONDS
    while any(_backing_file(device) == name for device in LOOP_DEVICES.glob("loop*/loop/backing_file")):
        if time.monotonic() > deadline:
            raise ProgramError("disk", f"a process of the previous boot still uses {image}")
        time.sleep(0.01)


def _backing_file(device: Path) -> str:
    try:
        return device.read_text().rstrip("\n")
    except OSError:  # the kernel has just released the device
        return ""
