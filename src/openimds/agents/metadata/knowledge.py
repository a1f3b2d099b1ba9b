"""How old what the agent knows may be by now: a figure, and a sentence when it gets too old and when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from openimds.agents.metadata.metrics import Measures
from openimds.agents.metadata.protocols import Mirror

LOOK_SECONDS = 0.1

_log = structlog.get_logger(__name__)


class Knowledge:
    """`limits`: seconds by option's name. Where there is no watch nothing is known, and nothing is old."""

    def __init__(self, mirror: Mirror, limits: Mapping[str, float], measures: Measures) -> None:
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
