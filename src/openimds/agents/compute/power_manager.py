"""Starts and stops servers, and reports the outcome of each boot.

Each boot generation is started once. An instance that exits stays off, as under Nova, until a user starts it, which
creates a new generation. After a restart the agent finds the running boots and does not touch them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from openimds.agents.compute.desired_state import DesiredServer
from openimds.agents.compute.protocols import ComputeDriver, ServersApi
from openimds.agents.provisioning_blocks import REPEAT_SECONDS
from openimds.netconfig.netns_instance import BootSpec
from openimds.resources.server import Server

RUNNING, STOPPED, ERROR = "running", "stopped", "error"
FAULT_CHARS = 500

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BootOutcome:
    """The reported outcome of one boot."""

    generation: int
    power_state: str
    fault: str | None = None


class PowerManager:
    """Brings each server to its desired power state. Not thread-safe, except for `report`."""

    def __init__(
        self,
        api: ServersApi,
        driver: ComputeDriver,
        *,
        vif_plugging_timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._driver = driver
        self.vif_plugging_timeout_seconds = vif_plugging_timeout_seconds
        self._clock = clock
        self._waiting_since: dict[tuple[str, int], float] = {}
        self._failed: dict[str, BootOutcome] = {}
        """The boots that failed to start. Only a new generation is tried again."""
        self._sent: dict[str, tuple[BootOutcome, Server, float]] = {}
        """The last report of each server, the server in the view at that time, and the time."""
        self.report: Mapping[str, Mapping[str, object]] = {}
        """The facts about each server, by id. Replaced as a whole."""

    def step(self, desired: DesiredServer) -> list[str]:
        """Takes the step that is due now. Returns a description of each change.

        Raises the control API's errors. The report is then due again.
        """
        changes: list[str] = []
        outcome = self._act(desired, changes)
        self._update_report(desired, outcome)
        if outcome is not None and self._needs_report(desired.server, outcome):
            self._report(desired.server, outcome)
        return changes

    def forget(self, server_id: str) -> None:
        """Drops the state of a deleted server."""
        self._failed.pop(server_id, None)
        self._sent.pop(server_id, None)
        self._waiting_since = {key: since for key, since in self._waiting_since.items() if key[0] != server_id}
        self.report = {key: value for key, value in self.report.items() if key != server_id}

    def _act(self, desired: DesiredServer, changes: list[str]) -> BootOutcome | None:
        """Starts or stops the server. Returns None if the boot is not due yet."""
        server = desired.server
        if server.driver == "external":
            return self._external_outcome(desired)
        if server.wanted_power_state != RUNNING:
            if self._driver.stop(server.id):
                changes.append(f"stop boot {server.boot_generation}")
            return BootOutcome(server.boot_generation, STOPPED)
        failed = self._failed.get(server.id)
        if failed is not None and failed.generation == server.boot_generation:
            return failed
        actual = self._driver.state(server.id)
        if actual is not None and actual.generation == server.boot_generation:
            return BootOutcome(actual.generation, RUNNING if actual.running else STOPPED)
        if actual is not None and actual.running and self._driver.stop(server.id):
            changes.append(f"stop boot {actual.generation}")
        return self._start(desired, changes) if self._is_due(desired) else None

    def _is_due(self, desired: DesiredServer) -> bool:
        """Whether all ports are ACTIVE or the timeout for them has expired."""
        key = (desired.server.id, desired.server.boot_generation)
        missing = desired.missing_ports
        waited = self._clock() - self._waiting_since.setdefault(key, self._clock())
        if missing and waited < self.vif_plugging_timeout_seconds:
            return False
        if missing:
            logger.warning(
                "boot started with inactive ports",
                server_id=desired.server.id,
                ports=list(missing),
                waited_seconds=round(waited, 1),
            )
        self._waiting_since.pop(key, None)
        return True

    def _start(self, desired: DesiredServer, changes: list[str]) -> BootOutcome:
        server = desired.server
        boot = BootSpec(
            server_id=server.id,
            generation=server.boot_generation,
            namespace=desired.namespace.name,
            nics=desired.nics,
            memory_mib=server.memory_mib,
            disk_gib=server.disk_gib,
        )
        try:
            self._driver.start(boot)
        except Exception as error:  # noqa: BLE001 - every error becomes the fault that the user sees
            logger.warning("boot failed", server_id=server.id, error=str(error))
            outcome = BootOutcome(server.boot_generation, ERROR, f"{error}"[:FAULT_CHARS])
            self._failed[server.id] = outcome
            return outcome
        changes.append(f"start boot {server.boot_generation}")
        logger.info("boot started", server_id=server.id, generation=server.boot_generation)
        return BootOutcome(server.boot_generation, RUNNING)

    def _external_outcome(self, desired: DesiredServer) -> BootOutcome | None:
        """The outcome of a server that another program runs: running as soon as all its ports are ACTIVE."""
        server = desired.server
        if server.wanted_power_state != RUNNING:
            return BootOutcome(server.boot_generation, STOPPED)
        if desired.missing_ports and server.status != "ACTIVE":
            return None
        return BootOutcome(server.boot_generation, RUNNING)

    def _needs_report(self, server: Server, outcome: BootOutcome) -> bool:
        """Whether a report is due. Reports are repeated until the view shows their effect, as in provisioning_blocks."""
        sent_outcome, sent_server, sent_at = self._sent.get(server.id, (None, None, 0.0))
        if sent_outcome != outcome:
            return True
        return _awaits(server, outcome) and (sent_server is not server or self._clock() - sent_at >= REPEAT_SECONDS)

    def _report(self, server: Server, outcome: BootOutcome) -> None:
        try:
            self._api.report_server(
                server.id,
                boot_generation=outcome.generation,
                power_state=outcome.power_state,
                fault=outcome.fault,
            )
        except Exception as error:
            if getattr(error, "status", None) != 404:  # the server was deleted
                raise
        self._sent[server.id] = (outcome, server, self._clock())

    def _update_report(self, desired: DesiredServer, outcome: BootOutcome | None) -> None:
        entry: dict[str, object] = {"generation": desired.server.boot_generation}
        entry["power_state"] = outcome.power_state if outcome else "waiting"
        if outcome is None:
            entry["waits_for_ports"] = list(desired.missing_ports)
        if outcome and outcome.fault:
            entry["fault"] = outcome.fault
        if self.report.get(desired.server.id) != entry:
            self.report = {**self.report, desired.server.id: entry}


_STARTING = frozenset({"BUILD", "REBOOT", "HARD_REBOOT", "REBUILD"})


def _awaits(server: Server, outcome: BootOutcome) -> bool:
    """Whether the server in the view does not show the effect of this report yet."""
    starting = server.status in _STARTING or (server.status == "SHUTOFF" and server.wanted_power_state == RUNNING)
    if outcome.power_state == STOPPED:
        stopping = server.wanted_power_state == STOPPED and server.status != "SHUTOFF"
        return starting or stopping or server.status == "ACTIVE"
    return starting
