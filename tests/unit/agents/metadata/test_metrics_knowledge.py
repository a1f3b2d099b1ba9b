"""How old what is known may be: a figure always, a sentence once in either direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from openimds.agents.metadata.metrics import Metrics, StalenessMonitor
from openimds.client.mirror import CloudView


@dataclass
class Mirror:
    age_seconds: float = 0
    revision: int = 7
    connected: bool = True

    def view(self) -> CloudView:
        return CloudView(revision=self.revision)

    def subscribe(self, callback: Callable[[Any], None]) -> None: ...


def test_it_is_said_once_that_it_is_too_old_and_once_that_it_is_over() -> None:
    mirror, registry = Mirror(), CollectorRegistry()
    knowledge = StalenessMonitor(mirror, {"short": 300, "long": 3600, "none": float("inf")}, Metrics(registry))
    said = []
    for age in (10.0, 301.0, 400.0, 4000.0, 5000.0, 1.0, 2.0):
        mirror.age_seconds = age
        with capture_logs() as lines:
            knowledge.check()
        said.append([(line["log_level"], line["option"]) for line in lines])
        assert registry.get_sample_value("openimds_metadata_agent_knowledge_age_seconds") == age
    over = [("info", "short"), ("info", "long")]
    assert said == [[], [("error", "short")], [], [("error", "long")], [], over, []]
    assert registry.get_sample_value("openimds_metadata_agent_knowledge_revision") == 7


def test_where_nothing_was_ever_heard_nothing_is_old() -> None:
    knowledge = StalenessMonitor(Mirror(age_seconds=1e6, revision=-1), {"short": 300}, Metrics(CollectorRegistry()))
    with capture_logs() as lines:
        knowledge.check()
    assert lines == []
