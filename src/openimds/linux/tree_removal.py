"""Deletes a folder with any content that a guest can create: any depth, number of files, flags and names.

The functions follow no symbolic link. They open each folder relative to an open descriptor, so the length of a path does
not matter. They use no recursion: a subfolder is first moved to the top, so that two descriptors suffice for any depth.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import stat
import struct
from collections.abc import Callable
from itertools import count
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MNT_DETACH, UMOUNT_NOFOLLOW = 0x2, 0x8
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_IMMUTABLE_FL, FS_APPEND_FL = 0x10, 0x20
"""The attributes `i` and `a` of chattr(1), which forbid the deletion also to root."""
REPAIRS = 3
"""The number of attempts for one entry. A mount point may have several mounts."""

_libc = ctypes.CDLL(None, use_errno=True)


def remove_tree(path: Path) -> None:
    """Deletes a file, or a folder with everything below it. Mounts below it are unmounted, and their content remains.

    Idempotent. A call that was interrupted is continued by the next one. Raises OSError for the folder itself if it is a
    mount point (EBUSY). It is empty then.
    """
    try:
        top = os.open(path, _FOLDER)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        path.unlink(missing_ok=True)
        return
    try:
        _Removal(top).run()
    finally:
        os.close(top)
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()


class _Removal:
    """One removal. `top` is the descriptor of the folder, which is emptied and remains."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._mount_id = _mount_id(top)
        token = secrets.token_hex(8)  # a guest cannot have created a file of this name
        self._names = (f".{token}.{number}" for number in count())

    def run(self) -> None:
        """Repeats passes over the top folder until it is empty, because subfolders are moved there."""
        while self._empty(self._top, is_top=True):
            pass

    def _empty(self, folder: int, *, is_top: bool = False) -> bool:
        """Removes the entries of a folder. Returns False if there was none."""
        found = False
        with os.scandir(folder) as entries:
            for entry in entries:
                found = True
                if not entry.is_dir(follow_symlinks=False):
                    self._repaired(folder, entry.name, _unlink)
                elif is_top:
                    self._remove_folder(entry.name)
                else:
                    self._repaired(folder, entry.name, self._move_to_top)
        return found

    def _remove_folder(self, name: str) -> None:
        """Removes a folder of the top folder, after its subfolders were moved to the top."""
        try:
            folder = os.open(name, _FOLDER, dir_fd=self._top)
        except FileNotFoundError:
            return
        try:
            if _mount_id(folder) != self._mount_id:
                _unmount(self._top, name)  # the next pass finds the folder below the mount
                return
            while self._empty(folder):
                pass
        finally:
            os.close(folder)
        self._repaired(self._top, name, _rmdir)

    def _move_to_top(self, name: str, folder: int) -> None:
        os.rename(name, next(self._names), src_dir_fd=folder, dst_dir_fd=self._top)

    def _repaired(self, folder: int, name: str, work: Callable[[str, int], None]) -> None:
        """Calls `work(name, folder)`. Unmounts the entry or clears its flags after an error, and repeats the call."""
        for attempt in range(REPAIRS + 1):
            try:
                work(name, folder)
            except FileNotFoundError:
                return
            except OSError as error:
                if attempt == REPAIRS or not _repair(folder, name, error):
                    raise
            else:
                return


def _unlink(name: str, folder: int) -> None:
    os.unlink(name, dir_fd=folder)


def _rmdir(name: str, folder: int) -> None:
    os.rmdir(name, dir_fd=folder)


def _repair(folder: int, name: str, error: OSError) -> bool:
    """Removes the cause of a failed deletion. Returns False if there is no remedy for the error."""
    if error.errno in (errno.EBUSY, errno.EXDEV):
        _unmount(folder, name)
        return True
    if error.errno in (errno.EPERM, errno.EACCES):
        _clear_flags(folder)
        kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
            entry = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                _clear_flags(entry)
            finally:
                os.close(entry)
        return True
    return False


def _unmount(folder: int, name: str) -> None:
    """Removes the topmost mount of an entry, also if a process uses it. Raises OSError."""
    if _libc.umount2(os.fsencode(f"/proc/self/fd/{folder}/{name}"), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot unmount: {os.strerror(code)}", name)


def _clear_flags(descriptor: int) -> None:
    """Clears the attributes that forbid a deletion. Does nothing on a file system without attributes."""
    with contextlib.suppress(OSError):
        flags = struct.unpack("l", fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(struct.calcsize("l"))))[0]
        cleared = flags & ~(FS_IMMUTABLE_FL | FS_APPEND_FL)
        if cleared != flags:
            fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", cleared))


def _mount_id(descriptor: int) -> str:
    """The mount of an open folder (proc_pid_fdinfo(5)). A bind mount has the same `st_dev` as its source."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as fdinfo:
        return next((line for line in fdinfo if line.startswith("mnt_id:")), "")
