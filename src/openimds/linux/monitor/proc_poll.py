"""Files below /proc whose change nobody tells of: kept open, and read again from time to time.

An open file of /proc/<pid> shows that process, whoever reads it, and does not keep it in being. Namespaces'
settings: setting_files.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from openimds.linux.fd_budget import open_to_stay
from openimds.linux.monitor.resource_index import WatchKey
from openimds.linux.sysctl import sysctl_path

MAX_BYTES = 1024
STOPPED = b"T"

IsRight = Callable[[bytes], bool]


@dataclass(slots=True)
class _Kept:
    path: Path
    descriptor: int | None
    """None: there is no such file yet; it may come."""
    is_right: IsRight


class PolledFiles:
    """Not for two threads at once."""

    def __init__(self) -> None:
        self._kept: dict[WatchKey, list[_Kept]] = {}

    def __contains__(self, note: WatchKey) -> bool:
        return note in self._kept

    def keep(self, note: WatchKey, files: Iterable[tuple[Path, IsRight]]) -> None:
        """In place of what was kept under this note."""
        self.drop(note)
        self._kept[note] = [_Kept(path, open_to_stay(path), is_right) for path, is_right in files]

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
                one.descriptor = open_to_stay(one.path)

    def close(self) -> None:
        for note in self.notes:
            self.drop(note)

    def _is_right(self, one: _Kept) -> bool:
        if one.descriptor is None:
            return True
        try:
            return one.is_right(os.pread(one.descriptor, MAX_BYTES, 0))
        except OSError:
            return True


def ipv6_off(device: str) -> list[tuple[Path, IsRight]]:
    """The host has no IPv6 address on it."""
    return [
        (sysctl_path(f"net.ipv6.conf.{device}.disable_ipv6", frozenset({device})), lambda text: text.strip() == b"1")
    ]


def runs(pid: int) -> list[tuple[Path, IsRight]]:
    """It is not stopped (SIGSTOP)."""
    return [(Path(f"/proc/{pid}/stat"), lambda text: text.rpartition(b")")[2].split(None, 1)[0] != STOPPED)]


def unchanged(paths: Iterable[Path]) -> list[tuple[Path, IsRight]]:
    """What is read is what was read the last time; that a file has come counts as news."""
    return [(path, _Same(path).is_same) for path in paths]


class _Same:
    def __init__(self, path: Path) -> None:
        self._last = path.read_bytes() if path.exists() else None

    def is_same(self, text: bytes) -> bool:
        before, self._last = self._last, text
        return before == text
