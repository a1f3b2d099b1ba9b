from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.security.stage import Cloud, cloud_in


@pytest.fixture(scope="module")
def running_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud with a namespace proxy for each test module."""
    with cloud_in(tmp_path_factory.mktemp("security")) as cloud:
        cloud.start_proxy()
        yield cloud


@pytest.fixture
def cloud(running_cloud: Cloud) -> Iterator[Cloud]:
    """Resets the passwords before each test, and checks all its responses after it."""
    running_cloud.api_stage.reset()
    running_cloud.transcripts.clear()
    yield running_cloud
    running_cloud.check_transcripts()
