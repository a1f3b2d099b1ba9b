"""For all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A run that is told to end ends as by Ctrl-C: every fixture takes away what it made."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
