"""Settings for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does, so that the fixtures clean up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
