"""How many of the descriptors that this process may have are taken by what stays open between looks.

What others change is heard of first of all: at 7 of 8. What only makes looks quicker, or is read between them, stops
earlier: at 3 of 4, so that it never keeps a later namespace from being heard. The rest is for work.
"""

from __future__ import annotations

import functools
import os
import resource
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


def within_budget(descriptor: int, *, hears: bool = False) -> bool:
    """Whether this one may stay open. The kernel gives the lowest free number, so it says how many are in use."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptor < (limit * 7 // 8 if hears else limit * 3 // 4):
        return True
    _log_exceeded(limit)
    return False


def open_within_budget(path: Path) -> int | None:
    """To be read. None: it is not there or cannot be opened, or is one too many."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if within_budget(descriptor):
        return descriptor
    os.close(descriptor)
    return None


@functools.cache
def _log_exceeded(limit: int) -> None:
    log.warning(
        "too few open files are allowed to hear at once of all that others change: some of it is found by the next full"
        " round only; raise LimitNOFILE (ulimit -n)",
        open_files=limit,
    )
