"""Tells the control API that this agent's part of a port is in place, once for each time that it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from openimds.resources.network import FixedIP, Port

Entity = Literal["dhcp", "l2"]


class ProvisioningApi(Protocol):
    def port_provisioned(self, port_id: str, entity: Entity) -> None: ...


class NotReportedError(Exception):
    """Some ports could not be reported; they will be again."""


class Provisioning:
    """A port that is ACTIVE misses nothing. One that is not is reported once as it is now; when it turned ACTIVE and
    away again (unplugged, a new address) it is reported anew.
    """

    def __init__(self, api: ProvisioningApi) -> None:
        self._api = api
        self._told: dict[tuple[str, Entity], tuple[str, tuple[FixedIP, ...]]] = {}

    def report(self, ports: Iterable[Port], entity: Entity) -> None:
        """Goes on after a failure; raises NotReportedError at the end."""
        failures = []
        for port in ports:
            try:
                self._report(port, entity)
            except Exception as error:  # noqa: BLE001 - which errors there are is the client's business
                if getattr(error, "status", None) != 404:  # it was deleted meanwhile
                    failures.append(f"port {port.id}: {error}")
        if failures:
            raise NotReportedError("; ".join(failures))

    def _report(self, port: Port, entity: Entity) -> None:
        key, stamp = (port.id, entity), (port.mac_address, port.fixed_ips)
        if port.status == "ACTIVE":
            self._told.pop(key, None)
        elif self._told.get(key) != stamp:
            self._api.port_provisioned(port.id, entity)
            self._told[key] = stamp

    def forget_all_but(self, port_ids: Iterable[str]) -> None:
        """Ports that are no more."""
        kept = set(port_ids)
        for key in [key for key in self._told if key[0] not in kept]:
            del self._told[key]
