"""The heartbeat of an agent: it reports the agent as alive to the control API, from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from openimds.client.control_client import ControlClient
from openimds.client.errors import ControlApiError, NoWatchError

NO_WATCH_SECONDS = 60.0
"""The interval of heartbeats in a cloud without the watch, which may be upgraded."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The identity of an agent in Neutron's agent API: `openimds-dhcp-agent` on `node1`, a `DHCP agent`."""

    binary: str
    host: str
    agent_type: str


class Heartbeat:
    """Sends a heartbeat every `interval_seconds`; `facts` returns the `configurations` of each, as JSON values."""

    def __init__(
        self, client: ControlClient, identity: Identity, facts: Callable[[], Mapping[str, Any]], interval_seconds: float
    ) -> None:
        self._client = client
        self._identity = identity
        self._facts = facts
        self._interval_seconds = interval_seconds
        self._started_at = datetime.now(UTC)
        self._stopping = threading.Event()
        self._is_failing = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def beat(self) -> None:
        """Sends one heartbeat. Raises ControlApiError."""
        self._client.send_heartbeat(
            self._identity.binary,
            self._identity.host,
            agent_type=self._identity.agent_type,
            started_at=self._started_at,
            configurations=self._facts(),
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            interval_seconds = self._interval_seconds
            try:
                self.beat()
            except NoWatchError:  # the mirror logs it
                interval_seconds = max(interval_seconds, NO_WATCH_SECONDS)
            except ControlApiError as error:
                self._log_first_failure(error)
            else:
                self._is_failing = False
            self._stopping.wait(interval_seconds)

    def _log_first_failure(self, error: ControlApiError) -> None:
        """Logs only the first failure of a row. The mirror logs when the control API is back."""
        if not self._is_failing:
            log.warning("heartbeat failed", error=str(error))
        self._is_failing = True
