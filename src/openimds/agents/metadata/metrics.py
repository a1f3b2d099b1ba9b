"""What the agent counts.

How old what the agent knows may be by now: a figure, and a sentence when it gets too old and when it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from openimds.agents.metadata.protocols import Mirror

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Registered once a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "openimds_metadata_agent_requests", "Requests answered, by status", ["status"], registry=registry
        )
        self.lookups = Counter(
            "openimds_metadata_agent_lookups",
            "Searches for the port that asks, by outcome: found, none, several, unknown, malformed",
            ["outcome"],
            registry=registry,
        )
        self.upstream_seconds = Histogram(
            "openimds_metadata_agent_upstream_seconds",
            "Time the metadata API took to answer",
            buckets=_SECONDS,
            registry=registry,
        )
        self.upstream_failures = Counter(
            "openimds_metadata_agent_upstream_failures", "Requests the metadata API did not answer", registry=registry
        )
        self.refused_signatures = Counter(
            "openimds_metadata_agent_refused_signatures",
            "Requests whose signature the metadata API refused",
            registry=registry,
        )
        self.knowledge_age = Gauge(
            "openimds_metadata_agent_knowledge_age_seconds",
            "What the agent knows of ports was true so long ago, or later",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.knowledge_revision = Gauge(
            "openimds_metadata_agent_knowledge_revision",
            "The control API's revision up to which the agent has heard of ports",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._answered: dict[int, Counter] = {}
        self.found = self.lookups.labels("found")

    def searched(self, outcome: str) -> None:
        """Count a search for who asks."""
        (self.found if outcome == "found" else self.lookups.labels(outcome)).inc()

    def answered(self, status: int) -> None:
        """Count an answer of this status."""
        counter = self._answered.get(status)
        if counter is None:
            counter = self._answered[status] = self.requests.labels(str(status))
        counter.inc()


LOOK_SECONDS = 0.1

_log = structlog.get_logger(__name__)


class StalenessMonitor:
    """`limits`: seconds by option's name. Where there is no watch nothing is known, and nothing is old."""

    def __init__(self, mirror: Mirror, limits: Mapping[str, float], measures: Metrics) -> None:
        self._mirror = mirror
        self._limits = limits
        self._measures = measures
        self._passed: set[str] = set()

    async def follow(self) -> None:
        """For ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        view, age_seconds = self._mirror.view(), self._mirror.age_seconds
        if view.revision < 0:
            return
        self._measures.knowledge_revision.set(view.revision)
        self._measures.knowledge_age.set(age_seconds)
        for option, limit in self._limits.items():
            if age_seconds > limit and option not in self._passed:
                self._passed.add(option)
                _log.error(
                    "what is known of ports is too old to be believed: guests get 503 until the control API answers",
                    option=option,
                    limit_seconds=limit,
                    revision=view.revision,
                )
            elif age_seconds <= limit and option in self._passed:
                self._passed.remove(option)
                _log.info("what is known of ports is kept up again", option=option, revision=view.revision)
