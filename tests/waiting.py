"""Waiting for conditions, and the timeouts of the tests.

A test waits for a condition and not for a fixed time. The timeouts are long, so that only a test that hangs reaches them,
even on a busy machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

HANG_SECONDS = 120.0
"""The timeout of every wait for the programs under test."""
INSTALL_SECONDS = 900.0
"""The timeout of downloads and builds that each machine needs once."""
PAUSE_SECONDS = 0.02

T = TypeVar("T")


def until(condition: Callable[[], T], what: str | Callable[[], str] = "", *, pause_seconds: float = PAUSE_SECONDS) -> T:
    """Calls `condition` until it returns a true value, and returns that value.

    Raises AssertionError with `what` after HANG_SECONDS. A function as `what` is called then, for example to read a log.
    """
    deadline = time.monotonic() + HANG_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, _timeout_message(what)
        time.sleep(pause_seconds)
    return result


async def until_async(condition: Callable[[], T], what: str | Callable[[], str] = "") -> T:
    """`until` for coroutines: the event loop runs between two calls."""
    deadline = time.monotonic() + HANG_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, _timeout_message(what)
        await asyncio.sleep(0.002)
    return result


def _timeout_message(what: str | Callable[[], str]) -> str:
    return f"not within {HANG_SECONDS:g} s: {what if isinstance(what, str) else what()}"
