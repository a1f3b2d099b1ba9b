"""Checklist row 4: what cannot be known now is 503 with Retry-After, never 404, and never somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compat.stage import Stage
from tests.security.cloud import ALPHA, BETA, request
from tests.security.stage import Cloud, cloud_in

from openimds.resources.errors import StoreUnavailable

HOSTNAME = "/latest/meta-data/hostname"


class Away:
    """A store that has gone away."""

    def __getattr__(self, name: str) -> object:
        def fail(*_arguments: object) -> object:
            raise StoreUnavailable("the store is away")

        return fail


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with cloud_in(tmp_path) as cloud:
        cloud.start_proxy()
        yield cloud
        cloud.judge()


def test_4_while_the_store_is_away(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cloud.ask_proxy(ALPHA, request("GET", HOSTNAME))[0].status == 200
    stage: Stage = cloud.api_stage
    monkeypatch.setattr(stage.instances, "instance", Away().instance)
    (known,) = cloud.ask_proxy(ALPHA, request("GET", HOSTNAME))
    assert known.status == 200
    (unknown,) = cloud.ask_proxy(BETA, request("GET", HOSTNAME))
    assert (unknown.status, unknown.header("retry-after")) == (503, "1")
