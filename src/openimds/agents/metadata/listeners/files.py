"""Reads the desired listeners from the folder in which the DHCP and L3 agents write them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from openimds.netconfig.listener_file import SUFFIX, DesiredListeners, ListenersFileError, parse_listeners

SETTLED_NANOSECONDS = 50_000_000
"""The minimum age of a modification time that counts as final. A second change within the same tick of the file system's
clock does not change the modification time."""

log = structlog.get_logger(__name__)


class _Stamp(NamedTuple):
    inode: int
    modified_at: int
    """Nanoseconds since the epoch."""
    size: int


@dataclass(frozen=True, slots=True)
class _Read:
    stamp: _Stamp
    wanted: DesiredListeners | None
    """None if the file is malformed, which is logged once."""


class MtimeWatch:
    """Detects changes of a folder by its modification time, with one stat call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = -1

    def has_changed(self) -> bool:
        """Returns whether entries may have been added, removed or replaced since the last `note`."""
        return self._time() != self._seen

    def note(self) -> None:
        """Stores the folder's modification time. The caller reads the folder afterwards."""
        changed_at = self._time()
        self._seen = changed_at if time.time_ns() - changed_at > SETTLED_NANOSECONDS else -1

    def _time(self) -> int:
        try:
            return self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return 0


class NamespaceDirWatch:
    """Detects new and replaced namespaces by the inodes of their mount points, with one listing of the folder."""

    def __init__(self, folder: Path) -> None:
        self.sign = MtimeWatch(folder)
        self._folder = folder
        self._mount_points: dict[str, int] = {}

    def read(self) -> frozenset[str]:
        """Returns the names of the namespaces that were added, removed or replaced since the last call."""
        self.sign.note()
        before, self._mount_points = self._mount_points, {entry.name: entry.inode() for entry in _listed(self._folder)}
        return frozenset(name for name, _inode in before.items() ^ self._mount_points.items())


class ListenerFiles:
    """The desired listeners of all files of the folder. A file is read again only after a change. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.sign = MtimeWatch(folder)
        self._folder = folder
        self._files: dict[str, _Read] = {}

    def read(self, *, is_full: bool = True) -> Mapping[str, DesiredListeners]:
        """Returns the desired listeners by file name without `.json`. Malformed files are skipped and logged once.

        If `is_full` is False, a file with the same inode counts as unchanged. The agents replace files and never write
        into an existing one.
        """
        self.sign.note()
        found: dict[str, _Read] = {}
        for entry in self._entries():
            known = self._files.get(entry.name)
            if known and not is_full and known.stamp.inode == entry.inode():
                found[entry.name] = known
                continue
            stamp = _stamp(entry)
            if stamp is not None:
                found[entry.name] = known if known and known.stamp == stamp else _read(Path(entry.path), stamp)
        self._files = found
        return {name.removesuffix(SUFFIX): one.wanted for name, one in found.items() if one.wanted is not None}

    def _entries(self) -> list[os.DirEntry[str]]:
        entries = _listed(self._folder)
        # Temporary files begin with a dot.
        return [entry for entry in entries if entry.name.endswith(SUFFIX) and not entry.name.startswith(".")]


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _stamp(entry: os.DirEntry[str]) -> _Stamp | None:
    try:
        status = entry.stat()
    except FileNotFoundError:
        return None
    return _Stamp(status.st_ino, status.st_mtime_ns, status.st_size)


def _read(path: Path, stamp: _Stamp) -> _Read:
    try:
        return _Read(stamp, parse_listeners(path.read_text()))
    except (ListenersFileError, OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        log.warning("listener file malformed: its agent must write it again", file=str(path), reason=reason)
        return _Read(stamp, None)
