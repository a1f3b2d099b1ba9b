"""What tests wait for, and how long a test may hang.

A test waits for a condition, never for a while: the deadlines here are far away, so that only what hangs reaches them,
however busy the machine is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

HANG_SECONDS = 120.0
"""Whoever has not come by then never comes."""
INSTALL_SECONDS = 900.0
"""The same for what is downloaded once a machine."""
PAUSE_SECONDS = 0.02

T = TypeVar("T")


def until(true: Callable[[], T], what: str | Callable[[], str] = "", *, pause_seconds: float = PAUSE_SECONDS) -> T:
    """Ask again and again until it is true; what it returned then.

    `what` is said when it hangs; a function is called at that moment, for example for a log as it is then.
    """
    deadline = time.monotonic() + HANG_SECONDS
    while not (answer := true()):
        assert time.monotonic() < deadline, _in_vain(what)
        time.sleep(pause_seconds)
    return answer


async def until_async(true: Callable[[], T], what: str | Callable[[], str] = "") -> T:
    """The same on an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + HANG_SECONDS
    while not (answer := true()):
        assert time.monotonic() < deadline, _in_vain(what)
        await asyncio.sleep(0.002)
    return answer


def _in_vain(what: str | Callable[[], str]) -> str:
    return f"not within {HANG_SECONDS:g} s: {what if isinstance(what, str) else what()}"
