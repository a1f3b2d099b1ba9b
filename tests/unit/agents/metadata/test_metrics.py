"""The age of the mirror: a metric always, and one log event when a maximum age is exceeded or met again."""

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


def test_an_exceeded_maximum_age_is_logged_once_and_its_end_once() -> None:
    mirror, registry = Mirror(), CollectorRegistry()
    monitor = StalenessMonitor(mirror, {"short": 300, "long": 3600, "none": float("inf")}, Metrics(registry))
    events = []
    for age in (10.0, 301.0, 400.0, 4000.0, 5000.0, 1.0, 2.0):
        mirror.age_seconds = age
        with capture_logs() as lines:
            monitor.check()
        events.append([(line["log_level"], line["option"]) for line in lines])
        assert registry.get_sample_value("openimds_metadata_agent_port_mirror_age_seconds") == age
    recovered = [("info", "short"), ("info", "long")]
    assert events == [[], [("error", "short")], [], [("error", "long")], [], recovered, []]
    assert registry.get_sample_value("openimds_metadata_agent_port_mirror_revision") == 7


def test_a_mirror_without_a_revision_is_never_stale() -> None:
    monitor = StalenessMonitor(Mirror(age_seconds=1e6, revision=-1), {"short": 300}, Metrics(CollectorRegistry()))
    with capture_logs() as lines:
        monitor.check()
    assert lines == []
