"""The share of this process's file descriptors that may stay open between reconcile passes.

Descriptors on which the kernel reports changes may use 7/8 of RLIMIT_NOFILE. Descriptors that only speed up reads, or
that are polled, may use 3/4, so that they never displace the event sockets of a namespace that is added later. The
remaining 1/8 is for everything else.
"""

from __future__ import annotations

import functools
import os
import resource
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


def within_budget(descriptor: int, *, for_events: bool = False) -> bool:
    """True if a long-lived descriptor is within the budget.

    The kernel assigns the lowest free number, so the number shows how many descriptors are in use.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptor < (limit * 7 // 8 if for_events else limit * 3 // 4):
        return True
    _log_exceeded(limit)
    return False


def open_within_budget(path: Path) -> int | None:
    """Opens a file for reading. Returns None if it cannot be opened or exceeds the budget."""
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
        "file descriptor budget exceeded; some changes are found by the next full pass only; raise LimitNOFILE",
        open_files=limit,
    )
