"""What happens to the files of some folders: inotify(7).

Folders of files that an agent keeps, and others may change; also when somebody puts another in a folder's place.

Files below /proc whose change nobody tells of: kept open, and read again from time to time.

An open file of /proc/<pid> shows that process, whoever reads it, and does not keep it in being. Namespaces'
settings: setting_files.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openimds.linux.fd_budget import open_within_budget
from openimds.linux.monitor.resource_index import WatchKey
from openimds.linux.sysctl import sysctl_path

IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR, IN_ISDIR = 0x4000, 0x8000, 0x1000000, 0x40000000
EVENT_MASK = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
BUFFER_BYTES = 1 << 16

_EVENT = struct.Struct("=iIII")
"""Watch, mask, cookie, length of the name that follows."""
_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Not for two threads at once. A file that is kept open and written to (dnsmasq's leases) is not heard of."""

    def __init__(self) -> None:
        self.descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._folders: dict[int, Path] = {}
        self._numbers: dict[Path, int] = {}
        self.overflowed = False
        """Something was missed since this was last set to False."""

    def watch(self, folder: Path) -> bool:
        """Whether this one was not heard of and is from now on. One of that name which was moved away is no more.

        It may not be there, or be one too many (fs.inotify.max_user_watches).
        """
        number: int = _libc.inotify_add_watch(self.descriptor, os.fsencode(folder), EVENT_MASK | IN_ONLYDIR)
        if number < 0 or self._folders.get(number) == folder:
            return False
        former = self._numbers.pop(folder, None)
        if former is not None:
            del self._folders[former]
            _libc.inotify_rm_watch(self.descriptor, former)  # nothing to do where the folder was deleted
        self._numbers.pop(self._folders.get(number, folder), None)
        self._folders[number], self._numbers[folder] = folder, number
        return True

    def changed(self) -> Iterator[tuple[Path, bool]]:
        """Every file or folder that came, went or was written since the last call, and whether it is a folder that
        is there.
        """
        while True:
            try:
                data = os.read(self.descriptor, BUFFER_BYTES)
            except BlockingIOError:
                return
            yield from self._parsed(data)

    def _parsed(self, data: bytes) -> Iterator[tuple[Path, bool]]:
        at = 0
        while at < len(data):
            number, mask, _cookie, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            at += _EVENT.size + length
            self.overflowed = self.overflowed or bool(mask & IN_Q_OVERFLOW)
            folder = self._folders.get(number)
            if mask & IN_IGNORED and folder is not None:
                del self._folders[number], self._numbers[folder]
            if folder is not None and name:
                yield folder / os.fsdecode(name), bool(mask & IN_ISDIR and mask & (IN_CREATE | IN_MOVED_TO))

    def close(self) -> None:
        os.close(self.descriptor)


class DirectoryWatcher:
    """Each with the folders in it. Not for two threads at once."""

    def __init__(self) -> None:
        self._folders = Inotify()
        self._own: tuple[Path, ...] = ()
        self._others: tuple[Path, ...] = ()

    @property
    def descriptor(self) -> int:
        """There is something to read when this can be read."""
        return self._folders.descriptor

    def watch(self, own: Iterable[Path], others: Iterable[Path]) -> None:
        """`own`: made where they are not there. Raises OSError."""
        self._own, self._others = tuple(own), tuple(others)
        for root in self._own:
            self._watch_own(root)
        for root in self._others:
            self._folders.watch(root)

    def watch_new_ones(self) -> bool:
        """Whether a folder stands where another one, or none, was watched: all that is in it may be another. Nobody tells of
        that; to be asked from time to time.
        """
        is_new = [self._folders.watch(root) for root in self._others]
        for root in self._own:
            with contextlib.suppress(OSError):  # somebody is faster, or made a file of that name: again the next time
                is_new.append(self._watch_own(root))
        return any(is_new)

    def changed(self) -> Iterator[tuple[Path, str]]:
        """The folder, and the name in it of what was changed, or of the folder that something in it was changed in."""
        for path, is_new_folder in self._folders.changed():
            if path.parent in self._others:
                yield path.parent, path.name
                continue
            root = next((root for root in self._own if root in path.parents), None)
            if root is None:
                continue
            if is_new_folder and path.parent == root:
                self._folders.watch(path)
            yield root, path.relative_to(root).parts[0]

    def take_overflow(self) -> bool:
        """Whether something was missed since this was asked last."""
        overflowed, self._folders.overflowed = self._folders.overflowed, False
        return overflowed

    def close(self) -> None:
        self._folders.close()

    def _watch_own(self, root: Path) -> bool:
        root.mkdir(parents=True, exist_ok=True, mode=0o755)
        is_new = self._folders.watch(root)
        if is_new:
            for folder in root.iterdir():
                if folder.is_dir():
                    self._folders.watch(folder)
        return is_new


MAX_BYTES = 1024
STOPPED = b"T"

IsExpected = Callable[[bytes], bool]


@dataclass(slots=True)
class _PolledFile:
    path: Path
    descriptor: int | None
    """None: there is no such file yet; it may come."""
    is_right: IsExpected


class PolledFiles:
    """Not for two threads at once."""

    def __init__(self) -> None:
        self._kept: dict[WatchKey, list[_PolledFile]] = {}

    def __contains__(self, note: WatchKey) -> bool:
        return note in self._kept

    def keep(self, note: WatchKey, files: Iterable[tuple[Path, IsExpected]]) -> None:
        """In place of what was kept under this note."""
        self.drop(note)
        self._kept[note] = [_PolledFile(path, open_within_budget(path), is_right) for path, is_right in files]

    @property
    def notes(self) -> list[WatchKey]:
        return list(self._kept)

    def drop(self, note: WatchKey) -> None:
        for one in self._kept.pop(note, ()):
            if one.descriptor is not None:
                os.close(one.descriptor)

    def is_right(self, note: WatchKey) -> bool:
        """Whether all of its files are. One that cannot be read any more is: its device or process has gone, which others
        tell of.
        """
        return all(self._is_right(one) for one in self._kept.get(note, ()))

    def come(self, note: WatchKey) -> None:
        """Open what was not there at first."""
        for one in self._kept.get(note, ()):
            if one.descriptor is None:
                one.descriptor = open_within_budget(one.path)

    def close(self) -> None:
        for note in self.notes:
            self.drop(note)

    def _is_right(self, one: _PolledFile) -> bool:
        if one.descriptor is None:
            return True
        try:
            return one.is_right(os.pread(one.descriptor, MAX_BYTES, 0))
        except OSError:
            return True


def ipv6_disabled(device: str) -> list[tuple[Path, IsExpected]]:
    """The host has no IPv6 address on it."""
    return [
        (sysctl_path(f"net.ipv6.conf.{device}.disable_ipv6", frozenset({device})), lambda text: text.strip() == b"1")
    ]


def not_stopped(pid: int) -> list[tuple[Path, IsExpected]]:
    """It is not stopped (SIGSTOP)."""
    return [(Path(f"/proc/{pid}/stat"), lambda text: text.rpartition(b")")[2].split(None, 1)[0] != STOPPED)]


def unchanged(paths: Iterable[Path]) -> list[tuple[Path, IsExpected]]:
    """What is read is what was read the last time; that a file has come counts as news."""
    return [(path, _PreviousContent(path).is_same) for path in paths]


class _PreviousContent:
    def __init__(self, path: Path) -> None:
        self._last = path.read_bytes() if path.exists() else None

    def is_same(self, text: bytes) -> bool:
        before, self._last = self._last, text
        return before == text
