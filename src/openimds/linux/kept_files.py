"""Files below /proc whose change nobody tells of: kept open, and read again from time to time.

An open file of /proc/sys/net shows the setting of the namespace that it was opened in, one of /proc/<pid> that process,
whoever reads it; neither keeps a namespace or a process in being. Reading one takes a microsecond.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from openimds.linux.attributions import Note
from openimds.linux.sysctl import sysctl_path

MAX_BYTES = 1024
STOPPED = b"T"

IsRight = Callable[[bytes], bool]
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Kept:
    path: Path
    descriptor: int | None
    """None: there is no such file yet; it may come."""
    is_right: IsRight


class KeptFiles:
    """Not for two threads at once. Takes at most half of the descriptors that this process may have."""

    def __init__(self) -> None:
        self._kept: dict[Note, list[_Kept]] = {}
        self._has_told = False

    def __contains__(self, note: Note) -> bool:
        return note in self._kept

    def keep(self, note: Note, files: Iterable[tuple[Path, IsRight]]) -> None:
        """In place of what was kept under this note. By a thread in the namespace whose settings are meant."""
        self.drop(note)
        self._kept[note] = [_Kept(path, self._opened(path), is_right) for path, is_right in files]

    @property
    def notes(self) -> list[Note]:
        return list(self._kept)

    def drop(self, note: Note) -> None:
        for one in self._kept.pop(note, ()):
            if one.descriptor is not None:
                os.close(one.descriptor)

    def wrong(self) -> list[Note]:
        """Those of which a file is not right. One that cannot be read any more is: its namespace, device or process has
        gone, which others tell of.
        """
        return [note for note, files in self._kept.items() if not all(self._is_right(one) for one in files)]

    def come(self, note: Note) -> None:
        """Open what was not there at first, in the calling thread's namespace."""
        for one in self._kept.get(note, ()):
            if one.descriptor is None and not self._has_told:
                one.descriptor = self._opened(one.path)

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

    def _opened(self, path: Path) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptor < limit // 2:
            return descriptor
        os.close(descriptor)
        if not self._has_told:
            self._has_told = True
            log.warning(
                "too few open files are allowed to watch every kernel setting: a change of one is found by the next full"
                " round only; raise LimitNOFILE (ulimit -n)",
                open_files=limit,
            )
        return None


def wanted_settings(
    settings: Mapping[str, str], device_names: frozenset[str] = frozenset()
) -> list[tuple[Path, IsRight]]:
    """`{"net.ipv4.ip_forward": "1"}`"""
    return [(sysctl_path(key, device_names), _is(value)) for key, value in settings.items()]


def ipv6_off(device: str) -> list[tuple[Path, IsRight]]:
    return wanted_settings({f"net.ipv6.conf.{device}.disable_ipv6": "1"}, frozenset({device}))


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


def _is(value: str) -> IsRight:
    wanted = value.encode()
    return lambda text: text.strip() == wanted
