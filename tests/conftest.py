"""Settings for all tests."""

from __future__ import annotations

import signal
from typing import Any

import pytest


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does, so that the fixtures clean up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Coroutine tests run on uvloop, the event loop of the programs."""
    return "asyncio", {"use_uvloop": True}
