from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from openimds.metadata.context import DocumentSettings, RenderContext
from openimds.resources.instance import Ec2Ids, Instance

BARE = Instance(
    id="11111111-2222-4333-8444-555555555501",
    project_id="p1",
    name="bare",
    hostname="bare",
    ec2_ids=Ec2Ids(instance_id="i-00000002"),
    flavor_name="m1.small",
)


@pytest.fixture
def make_context() -> Callable[..., RenderContext]:
    """Returns a function that creates the render context of a bare instance with the given attributes."""

    def make(settings: DocumentSettings | None = None, **attributes: Any) -> RenderContext:
        return RenderContext(
            instance=replace(BARE, **attributes),
            settings=settings or DocumentSettings(),
            today="2026-11-21",
            address="10.9.9.9",
            random_bytes=lambda count: b"r" * count,
        )

    return make
