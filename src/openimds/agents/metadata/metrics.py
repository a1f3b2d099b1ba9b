"""The metrics of the metadata agent, and the monitor of the port mirror's age."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from openimds.agents.metadata.protocols import PortMirror

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one process, registered once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "openimds_metadata_agent_requests", "Responses by status", ["status"], registry=registry
        )
        self.lookups = Counter(
            "openimds_metadata_agent_lookups",
            "Lookups of the port of a request, by outcome: found, none, several, unknown, malformed",
            ["outcome"],
            registry=registry,
        )
        self.upstream_seconds = Histogram(
            "openimds_metadata_agent_upstream_seconds",
            "Time from a forwarded request to the response of the metadata API",
            buckets=_SECONDS,
            registry=registry,
        )
        self.upstream_failures = Counter(
            "openimds_metadata_agent_upstream_failures",
            "Requests without a response of the metadata API",
            registry=registry,
        )
        self.refused_signatures = Counter(
            "openimds_metadata_agent_refused_signatures",
            "Requests whose signature the metadata API rejected",
            registry=registry,
        )
        self.port_mirror_age = Gauge(
            "openimds_metadata_agent_port_mirror_age_seconds",
            "Maximum age of the mirrored ports",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.port_mirror_revision = Gauge(
            "openimds_metadata_agent_port_mirror_revision",
            "Revision of the mirrored ports",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.notifications_live = Gauge(
            "openimds_metadata_agent_notifications_live",
            "1 while notifications of Neutron and Nova arrive",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.found = self.lookups.labels("found")

    def count_lookup(self, outcome: str) -> None:
        """Counts a lookup: found, none, several, unknown or malformed."""
        (self.found if outcome == "found" else self.lookups.labels(outcome)).inc()

    def count_responses(self, counts: Mapping[int, int]) -> None:
        """Counts responses by status."""
        for status, count in counts.items():
            self.requests.labels(str(status)).inc(count)


CHECK_SECONDS = 0.1

_log = structlog.get_logger(__name__)


class StalenessMonitor:
    """Logs when the mirror's state exceeds the maximum age of an option, and when it is current again.

    Without a watch there is no state, and its age has no meaning.
    """

    def __init__(self, mirror: PortMirror, limits: Mapping[str, float], metrics: Metrics) -> None:
        """`limits`: maximum ages in seconds by option."""
        self._mirror = mirror
        self._limits = limits
        self._metrics = metrics
        self._exceeded: set[str] = set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self.check()
            await asyncio.sleep(CHECK_SECONDS)

    def check(self) -> None:
        view, age_seconds = self._mirror.view(), self._mirror.age_seconds
        if view.revision < 0:
            return
        self._metrics.port_mirror_revision.set(view.revision)
        self._metrics.port_mirror_age.set(age_seconds)
        for option, limit in self._limits.items():
            if age_seconds > limit and option not in self._exceeded:
                self._exceeded.add(option)
                _log.error(
                    "port mirror too old: clients get 503 until the control API responds",
                    option=option,
                    limit_seconds=limit,
                    revision=view.revision,
                )
            elif age_seconds <= limit and option in self._exceeded:
                self._exceeded.remove(option)
                _log.info("port mirror current again", option=option, revision=view.revision)
