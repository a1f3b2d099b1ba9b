from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from tests.contract.control.stage import Cloud, ComputeAgent, Session, control_api


@pytest.fixture(scope="session", autouse=True)
def _short_tracebacks() -> None:
    """The default renderer of structlog needs a minute for a traceback with all its locals."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One control API for each test file."""
    with control_api(tmp_path_factory.mktemp("control")) as running:
        yield running


@pytest.fixture(scope="module")
def admin(cloud: Cloud) -> Session:
    return cloud.login()


@pytest.fixture(scope="module")
def agent(cloud: Cloud) -> ComputeAgent:
    """An alive compute host."""
    return ComputeAgent(cloud)
