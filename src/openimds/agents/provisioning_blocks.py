"""Provisioning blocks (Neutron's term): an agent reports that its entity of a port (`l2`, `dhcp`) is in place.

Reports are level-triggered. An agent reports in every pass in which the control API shows that it still waits for the
entity, so nothing that the control API does to a port (bind, detach, restore a backup) can leave the port DOWN.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from openimds.resources.network import Port

Entity = Literal["dhcp", "l2"]

REPEAT_SECONDS = 5.0
"""A report is repeated after this time if the port has not changed: the report or its effect may have been lost."""


class ProvisioningApi(Protocol):
    def port_provisioned(self, port_id: str, entity: Entity, binding_generation: int | None = None) -> None: ...


class NotReportedError(Exception):
    """Some ports could not be reported. The next pass reports them again."""


class ProvisioningBlocks:
    """Sends the reports. The last report of each port is cached only to avoid quick repetitions."""

    def __init__(self, api: ProvisioningApi, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._sent: dict[tuple[str, Entity], tuple[Port, float]] = {}

    def report(self, ports: Iterable[Port], entity: Entity) -> None:
        """Reports `entity` of each port that awaits it. Continues after a failure; raises NotReportedError at the end."""
        failures = []
        for port in ports:
            try:
                self._report(port, entity)
            except Exception as error:  # noqa: BLE001 - the client decides which errors exist
                if getattr(error, "status", None) != 404:  # deleted meanwhile
                    failures.append(f"port {port.id}: {error}")
        if failures:
            raise NotReportedError("; ".join(failures))

    def _report(self, port: Port, entity: Entity) -> None:
        key, now = (port.id, entity), self._clock()
        if not port.awaits(entity):
            self._sent.pop(key, None)
            return
        sent_port, sent_at = self._sent.get(key, (None, 0.0))
        if sent_port is port and now - sent_at < REPEAT_SECONDS:
            return
        self._api.port_provisioned(port.id, entity, port.binding_generation or None)
        self._sent[key] = (port, now)

    def forget_all_but(self, port_ids: Iterable[str]) -> None:
        """Drops the cached reports of deleted ports."""
        existing = set(port_ids)
        for key in [key for key in self._sent if key[0] not in existing]:
            del self._sent[key]
