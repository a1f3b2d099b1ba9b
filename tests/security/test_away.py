"""Checklist row 4: an instance that cannot be loaded is 503 with Retry-After, not 404 or another instance's data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compat.stage import Stage
from tests.security.instances import ALPHA, BETA, request
from tests.security.stage import Cloud, cloud_in

from openimds.resources.errors import StoreUnavailable

HOSTNAME = "/latest/meta-data/hostname"


class FailingStore:
    """A store with StoreUnavailable as the result of all calls."""

    def __getattr__(self, name: str) -> object:
        def fail(*_arguments: object) -> object:
            raise StoreUnavailable("the store is unavailable")

        return fail


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with cloud_in(tmp_path) as cloud:
        cloud.start_proxy()
        yield cloud
        cloud.check_transcripts()


def test_4_unavailable_store_is_503_for_uncached_instances(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cloud.ask_proxy(ALPHA, request("GET", HOSTNAME))[0].status == 200
    stage: Stage = cloud.api_stage
    monkeypatch.setattr(stage.instances, "instance", FailingStore().instance)
    (cached,) = cloud.ask_proxy(ALPHA, request("GET", HOSTNAME))
    assert cached.status == 200
    (uncached,) = cloud.ask_proxy(BETA, request("GET", HOSTNAME))
    assert (uncached.status, uncached.header("retry-after")) == (503, "1")
