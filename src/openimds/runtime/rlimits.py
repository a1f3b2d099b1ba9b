"""Resource limits of this process (setrlimit(2))."""

from __future__ import annotations

import contextlib
import resource


def raise_nofile() -> int:
    """Raises the soft limit of open files to the hard limit. Returns the former soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft
