"""Reads the folder in which the DHCP and the L3 agent say where to listen."""

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
"""A change within the same tick of the file system's clock as the one before leaves no trace in the folder's time: one
that is younger than some ticks is not believed to be the last."""

log = structlog.get_logger(__name__)


class _Stamp(NamedTuple):
    inode: int
    modified_at: int
    """In nanoseconds."""
    size: int


@dataclass(frozen=True, slots=True)
class _Read:
    stamp: _Stamp
    wanted: DesiredListeners | None
    """None: the file is bad, and was complained of."""


class MtimeWatch:
    """Of changes in a folder: one stat."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = -1

    def has_changed(self) -> bool:
        """Whether names may have come or gone, or files been replaced, since the last `note`."""
        return self._time() != self._seen

    def note(self) -> None:
        """To be called before the folder is read."""
        changed_at = self._time()
        self._seen = changed_at if time.time_ns() - changed_at > SETTLED_NANOSECONDS else -1

    def _time(self) -> int:
        try:
            return self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return 0


class NamespaceDirWatch:
    """Whether there is another than before behind a name: told by its mount point's inode, from one listing of a folder in
    which a thousand may be, without a look at each.
    """

    def __init__(self, folder: Path) -> None:
        self.sign = MtimeWatch(folder)
        self._folder = folder
        self._mount_points: dict[str, int] = {}

    def read(self) -> frozenset[str]:
        """The names that came, went or were made anew since the last call."""
        self.sign.note()
        before, self._mount_points = self._mount_points, {entry.name: entry.inode() for entry in _listed(self._folder)}
        return frozenset(name for name, _inode in before.items() ^ self._mount_points.items())


class ListenerFiles:
    """Files are read when they are new. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.sign = MtimeWatch(folder)
        self._folder = folder
        self._files: dict[str, _Read] = {}

    def read(self, *, is_full: bool = True) -> Mapping[str, DesiredListeners]:
        """By file name without `.json`. Bad files are left out, and said once.

        Not full: a file that is the same one (its agent replaces files, and never writes into one) is as it was.
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
        # What begins with a dot is being written.
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
        log.warning(
            "a file that says where to listen is bad; its agent must write it anew", file=str(path), reason=reason
        )
        return _Read(stamp, None)
