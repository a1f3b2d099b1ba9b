"""Log files of bounded size: one that has grown beyond its limit becomes `<name>.1`, in place of an older one.

Who writes keeps its descriptor (O_APPEND), so the file is copied and emptied under it, as with logrotate's copytruncate:
that works with several writers, with parts that an earlier supervisor started, and whatever they write. A line written in
the few microseconds between the last look and the emptying is lost.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

CHUNK_BYTES = 1024 * 1024


def older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def rotate(path: Path, limit_bytes: int) -> bool:
    """Whether it was too large, and is empty now. What cannot be copied (a full disk) is given up for the bound."""
    try:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size <= limit_bytes:
                return False
            kept = _keep(path, file.fileno())
            os.ftruncate(file.fileno(), 0)
    except OSError:
        return False  # it is not there, or cannot be written: its writer cannot either
    if not kept:
        log.warning("a log file was emptied: there was no room to keep it", file=str(path))
    return True


def _keep(path: Path, descriptor: int) -> bool:
    """All that is in the file, as the older one."""
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("wb") as copy:
            os.fchmod(copy.fileno(), os.fstat(descriptor).st_mode & 0o777)
            while chunk := os.pread(descriptor, CHUNK_BYTES, copy.tell()):
                copy.write(chunk)
        draft.replace(older(path))
    except OSError:
        draft.unlink(missing_ok=True)
        older(path).unlink(missing_ok=True)  # gives room
        return False
    return True
