"""A program's sign of life at the control API, from a thread of its own, for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from openimds.client.control_client import ControlClient
from openimds.client.errors import ControlApiError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who sends it: `openimds-dhcp-agent` on `node1`, a `DHCP agent`."""

    binary: str
    host: str
    agent_type: str


class Heartbeat:
    """`facts` is asked for each beat's `configurations`: what is true of the agent, JSON-able."""

    def __init__(
        self, client: ControlClient, identity: Identity, facts: Callable[[], Mapping[str, Any]], interval_seconds: float
    ) -> None:
        self._client = client
        self._identity = identity
        self._facts = facts
        self._interval_seconds = interval_seconds
        self._started_at = datetime.now(UTC)
        self._stopping = threading.Event()
        self._lost = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def beat(self) -> None:
        """One; raises ControlApiError."""
        self._client.send_heartbeat(
            self._identity.binary,
            self._identity.host,
            agent_type=self._identity.agent_type,
            started_at=self._started_at,
            configurations=self._facts(),
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.beat()
            except ControlApiError as error:
                self._note_lost(error)
            else:
                self._lost = False
            self._stopping.wait(self._interval_seconds)

    def _note_lost(self, error: ControlApiError) -> None:
        """Once: the mirror says when the control API is back."""
        if not self._lost:
            log.warning("the control API does not take the heartbeat", error=str(error))
        self._lost = True
