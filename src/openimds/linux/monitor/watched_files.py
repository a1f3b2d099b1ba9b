"""Files whose changes are watched by inotify(7), and files of /proc that are polled.

inotify reports the agents' own directories, also after a directory was replaced by another one. It does not report
changes below /proc. Such a file is kept open and read periodically: an open file of /proc/<pid> shows the process that
it was opened for, and does not keep the process alive. The sysctls of namespaces are read in netns/handles.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from inotify_simple import INotify, flags

from openimds.linux.fd_budget import open_within_budget
from openimds.linux.monitor.resource_index import WatchKey
from openimds.linux.sysctl import sysctl_path

EVENT_MASK = flags.CLOSE_WRITE | flags.MOVED_FROM | flags.MOVED_TO | flags.CREATE | flags.DELETE


class WatchedDirectories:
    """inotify watches by directory. Not thread-safe.

    A file that stays open while it is written (dnsmasq's leases) causes no event.
    """

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self.descriptor: int = self._inotify.fileno()
        self._directories: dict[int, Path] = {}
        self._watches: dict[Path, int] = {}
        self.overflowed = False
        """Events were lost since this flag was last reset."""

    def add(self, directory: Path) -> bool:
        """Watches a directory. Returns True if it is a new one: not watched before, or a replacement.

        Returns False if it does not exist or exceeds fs.inotify.max_user_watches. A directory of this name that was
        moved away is no longer watched.
        """
        try:
            watch: int = self._inotify.add_watch(directory, EVENT_MASK | flags.ONLYDIR)
        except OSError:
            return False
        if self._directories.get(watch) == directory:
            return False
        former = self._watches.pop(directory, None)
        if former is not None:
            del self._directories[former]
            with contextlib.suppress(OSError):  # the kernel removes the watch of a deleted directory
                self._inotify.rm_watch(former)
        self._watches.pop(self._directories.get(watch, directory), None)
        self._directories[watch], self._watches[directory] = directory, watch
        return True

    def read(self) -> Iterator[tuple[Path, bool]]:
        """Yields each file or directory that was created, removed or written, and whether it is a new directory."""
        for event in self._inotify.read(timeout=0):
            self.overflowed = self.overflowed or bool(event.mask & flags.Q_OVERFLOW)
            directory = self._directories.get(event.wd)
            if event.mask & flags.IGNORED and directory is not None:
                del self._directories[event.wd], self._watches[directory]
            if directory is not None and event.name:
                is_new_directory = event.mask & flags.ISDIR and event.mask & (flags.CREATE | flags.MOVED_TO)
                yield directory / event.name, bool(is_new_directory)

    def close(self) -> None:
        self._inotify.close()


class DirectoryWatcher:
    """Watches directories and the directories directly inside them. Not thread-safe."""

    def __init__(self) -> None:
        self._watched = WatchedDirectories()
        self._own: tuple[Path, ...] = ()
        self._foreign: tuple[Path, ...] = ()

    @property
    def descriptor(self) -> int:
        """The descriptor that is readable when there are changes."""
        return self._watched.descriptor

    def watch(self, own: Iterable[Path], foreign: Iterable[Path]) -> None:
        """Starts watching. The `own` directories are created if they do not exist. Raises OSError."""
        self._own, self._foreign = tuple(own), tuple(foreign)
        for root in self._own:
            self._watch_own(root)
        for root in self._foreign:
            self._watched.add(root)

    def rewatch_replaced(self) -> bool:
        """Watches directories that were created or replaced. Returns True if there are any.

        The contents of such a directory may have changed. inotify does not report the replacement, so this method must
        be called periodically.
        """
        is_new = [self._watched.add(root) for root in self._foreign]
        for root in self._own:
            # A concurrent removal, or a file of that name. The next call tries again.
            with contextlib.suppress(OSError):
                is_new.append(self._watch_own(root))
        return any(is_new)

    def read_changes(self) -> Iterator[tuple[Path, str]]:
        """Yields the watched directory, and the name in it that changed or that contains the changed file."""
        for path, is_new_directory in self._watched.read():
            if path.parent in self._foreign:
                yield path.parent, path.name
                continue
            root = next((root for root in self._own if root in path.parents), None)
            if root is None:
                continue
            if is_new_directory and path.parent == root:
                self._watched.add(path)
            yield root, path.relative_to(root).parts[0]

    def take_overflow(self) -> bool:
        """True if events were lost since the last call."""
        overflowed, self._watched.overflowed = self._watched.overflowed, False
        return overflowed

    def close(self) -> None:
        self._watched.close()

    def _watch_own(self, root: Path) -> bool:
        root.mkdir(parents=True, exist_ok=True, mode=0o755)
        is_new = self._watched.add(root)
        if is_new:
            for path in root.iterdir():
                if path.is_dir():
                    self._watched.add(path)
        return is_new


MAX_BYTES = 1024
STOPPED = b"T"

IsExpected = Callable[[bytes], bool]


@dataclass(slots=True)
class _PolledFile:
    path: Path
    descriptor: int | None
    """None if the file does not exist yet."""
    is_expected: IsExpected


class PolledFiles:
    """Open files whose contents are compared with the expectation, by watch key. Not thread-safe."""

    def __init__(self) -> None:
        self._files: dict[WatchKey, list[_PolledFile]] = {}

    def __contains__(self, key: WatchKey) -> bool:
        return key in self._files

    def add(self, key: WatchKey, files: Iterable[tuple[Path, IsExpected]]) -> None:
        """Opens the files of a key, in place of its former ones."""
        self.drop(key)
        self._files[key] = [_PolledFile(path, open_within_budget(path), expected) for path, expected in files]

    @property
    def keys(self) -> list[WatchKey]:
        return list(self._files)

    def drop(self, key: WatchKey) -> None:
        for file in self._files.pop(key, ()):
            if file.descriptor is not None:
                os.close(file.descriptor)

    def are_expected(self, key: WatchKey) -> bool:
        """True if all files of a key have the expected contents.

        A file that cannot be read counts as expected: its device or process is gone, which other events report.
        """
        return all(self._is_expected(file) for file in self._files.get(key, ()))

    def open_missing(self, key: WatchKey) -> None:
        """Opens the files that did not exist before."""
        for file in self._files.get(key, ()):
            if file.descriptor is None:
                file.descriptor = open_within_budget(file.path)

    def close(self) -> None:
        for key in self.keys:
            self.drop(key)

    def _is_expected(self, file: _PolledFile) -> bool:
        if file.descriptor is None:
            return True
        try:
            return file.is_expected(os.pread(file.descriptor, MAX_BYTES, 0))
        except OSError:
            return True


def ipv6_disabled(device: str) -> list[tuple[Path, IsExpected]]:
    """Expects that IPv6 is disabled on a device of the host."""
    return [
        (sysctl_path(f"net.ipv6.conf.{device}.disable_ipv6", frozenset({device})), lambda text: text.strip() == b"1")
    ]


def not_stopped(pid: int) -> list[tuple[Path, IsExpected]]:
    """Expects that a process is not stopped (SIGSTOP)."""
    return [(Path(f"/proc/{pid}/stat"), lambda text: text.rpartition(b")")[2].split(None, 1)[0] != STOPPED)]


def unchanged(paths: Iterable[Path]) -> list[tuple[Path, IsExpected]]:
    """Expects that each file has the same content as at its previous read, or that it still does not exist."""
    return [(path, _PreviousContent(path).is_same) for path in paths]


class _PreviousContent:
    def __init__(self, path: Path) -> None:
        self._previous = path.read_bytes() if path.exists() else None

    def is_same(self, text: bytes) -> bool:
        before, self._previous = self._previous, text
        return before == text
