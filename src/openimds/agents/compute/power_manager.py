"""Starts and stops servers, and reports what became of each boot.

A boot generation is started once. A guest that ends by itself stays off (as under Nova); a new generation, asked for by
a person, is a new boot. An agent that starts anew finds the boots that run, and leaves them alone.
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
    """What became of one boot, as it is reported."""

    generation: int
    power_state: str
    fault: str | None = None


class PowerManager:
    """Not for several threads at once, but for `report`."""

    def __init__(
        self,
        api: ServersApi,
        guests: ComputeDriver,
        *,
        vif_plugging_timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._guests = guests
        self.vif_plugging_timeout_seconds = vif_plugging_timeout_seconds
        self._clock = clock
        self._waiting_since: dict[tuple[str, int], float] = {}
        self._failed: dict[str, BootOutcome] = {}
        """Boots that could not be started: tried again only when a person asks for it."""
        self._sent: dict[str, tuple[BootOutcome, Server, float]] = {}
        """The last report of each server, the server as it was shown then, and when."""
        self.report: Mapping[str, Mapping[str, object]] = {}
        """By server; replaced whole."""

    def step(self, wanted: DesiredServer) -> list[str]:
        """Does what is due now; what was done, in words. Raises what the control API raises; then it is due again."""
        words: list[str] = []
        outcome = self._act(wanted, words)
        self._note(wanted, outcome)
        if outcome is not None and self._is_to_report(wanted.server, outcome):
            self._report(wanted.server, outcome)
        return words

    def forget(self, server_id: str) -> None:
        """It is no more."""
        self._failed.pop(server_id, None)
        self._sent.pop(server_id, None)
        self._waiting_since = {key: since for key, since in self._waiting_since.items() if key[0] != server_id}
        self.report = {key: value for key, value in self.report.items() if key != server_id}

    def _act(self, wanted: DesiredServer, words: list[str]) -> BootOutcome | None:
        """None: the boot is not due yet."""
        server = wanted.server
        if server.driver == "external":
            return self._external_outcome(wanted)
        if server.wanted_power_state != RUNNING:
            if self._guests.stop(server.id):
                words.append(f"stop boot {server.boot_generation}")
            return BootOutcome(server.boot_generation, STOPPED)
        failed = self._failed.get(server.id)
        if failed is not None and failed.generation == server.boot_generation:
            return failed
        found = self._guests.state(server.id)
        if found is not None and found.generation == server.boot_generation:
            return BootOutcome(found.generation, RUNNING if found.running else STOPPED)
        if found is not None and found.running and self._guests.stop(server.id):
            words.append(f"stop boot {found.generation}")
        return self._start(wanted, words) if self._is_due(wanted) else None

    def _is_due(self, wanted: DesiredServer) -> bool:
        """Its ports are in place, or it has waited for them long enough."""
        key = (wanted.server.id, wanted.server.boot_generation)
        missing = wanted.missing_ports
        waited = self._clock() - self._waiting_since.setdefault(key, self._clock())
        if missing and waited < self.vif_plugging_timeout_seconds:
            return False
        if missing:
            logger.warning(
                "boots without its ports being in place",
                server_id=wanted.server.id,
                ports=list(missing),
                waited_seconds=round(waited, 1),
            )
        self._waiting_since.pop(key, None)
        return True

    def _start(self, wanted: DesiredServer, words: list[str]) -> BootOutcome:
        server = wanted.server
        boot = BootSpec(
            server_id=server.id,
            generation=server.boot_generation,
            namespace=wanted.namespace.name,
            nics=wanted.nics,
        )
        try:
            self._guests.start(boot)
        except Exception as error:  # noqa: BLE001 - whatever it is, the person who asked for it must hear of it
            logger.warning("a server does not start", server_id=server.id, error=str(error))
            outcome = BootOutcome(server.boot_generation, ERROR, f"{error}"[:FAULT_CHARS])
            self._failed[server.id] = outcome
            return outcome
        words.append(f"start boot {server.boot_generation}")
        logger.info("a server boots", server_id=server.id, generation=server.boot_generation)
        return BootOutcome(server.boot_generation, RUNNING)

    def _external_outcome(self, wanted: DesiredServer) -> BootOutcome | None:
        """Another program runs the server. It counts as running once all its ports are in place, until it is stopped."""
        server = wanted.server
        if server.wanted_power_state != RUNNING:
            return BootOutcome(server.boot_generation, STOPPED)
        if wanted.missing_ports and server.status != "ACTIVE":
            return None
        return BootOutcome(server.boot_generation, RUNNING)

    def _is_to_report(self, server: Server, outcome: BootOutcome) -> bool:
        """Level-triggered, as in agents/provisioning_blocks.py: reported until the control API shows the effect."""
        sent, shown, sent_at = self._sent.get(server.id, (None, None, 0.0))
        if sent != outcome:
            return True
        return _awaits(server, outcome) and (shown is not server or self._clock() - sent_at >= REPEAT_SECONDS)

    def _report(self, server: Server, outcome: BootOutcome) -> None:
        try:
            self._api.report_server(
                server.id,
                boot_generation=outcome.generation,
                power_state=outcome.power_state,
                fault=outcome.fault,
            )
        except Exception as error:
            if getattr(error, "status", None) != 404:  # deleted meanwhile
                raise
        self._sent[server.id] = (outcome, server, self._clock())

    def _note(self, wanted: DesiredServer, outcome: BootOutcome | None) -> None:
        entry: dict[str, object] = {"generation": wanted.server.boot_generation}
        entry["power_state"] = outcome.power_state if outcome else "waiting"
        if outcome is None:
            entry["waits_for_ports"] = list(wanted.missing_ports)
        if outcome and outcome.fault:
            entry["fault"] = outcome.fault
        if self.report.get(wanted.server.id) != entry:
            self.report = {**self.report, wanted.server.id: entry}


_STARTING = frozenset({"BUILD", "REBOOT", "HARD_REBOOT", "REBUILD"})


def _awaits(server: Server, outcome: BootOutcome) -> bool:
    """Whether the server, as the control API shows it, still lacks the effect of this report."""
    starting = server.status in _STARTING or (server.status == "SHUTOFF" and server.wanted_power_state == RUNNING)
    if outcome.power_state == STOPPED:
        stopping = server.wanted_power_state == STOPPED and server.status != "SHUTOFF"
        return starting or stopping or server.status == "ACTIVE"
    return starting
