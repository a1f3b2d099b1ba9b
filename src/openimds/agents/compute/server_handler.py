"""The resource handler of servers: their bridges, port security, namespace with NICs, and power state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from openimds.agents.compute.desired_state import DesiredServer, desired_servers
from openimds.agents.compute.power_manager import PowerManager
from openimds.agents.compute.protocols import ComputeAdapters
from openimds.agents.protocols import CloudView
from openimds.agents.provisioning_blocks import ProvisioningBlocks
from openimds.resources.network import Port
from openimds.resources.server import instance_namespace

NETNS, EXTERNAL = "netns", "external"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """The settings of the compute agent."""

    host: str
    namespace_prefix: str = ""
    owner_uid: int
    """The host's uid that root inside an instance is mapped to."""


class NotRunnableError(Exception):
    """This agent cannot run the server."""


class ServerHandler:
    """The ResourceHandler of servers.

    One lock covers networking and power, so that a server boots only when it is plugged in, and is off before its
    devices are removed.
    """

    kind = "server"

    def __init__(self, adapters: ComputeAdapters, settings: ComputeSettings, power: PowerManager) -> None:
        self._adapters = adapters
        self._settings = settings
        self._power = power
        self._provisioning = ProvisioningBlocks(adapters.api)
        self._desired: Mapping[str, DesiredServer] = {}
        self._plugged: dict[str, DesiredServer] = {}
        """The last applied state of each server."""
        self._unplugged: dict[str, int] = {}
        """The binding generation of each port that is unplugged and not reported yet, by port id."""
        self._lock = threading.RLock()

    @property
    def report(self) -> Mapping[str, Mapping[str, object]]:
        """The facts about each server, for the heartbeat."""
        return self._power.report

    def desired(self, view: CloudView) -> Mapping[str, DesiredServer]:
        self._desired = desired_servers(
            view,
            host=self._settings.host,
            namespace_prefix=self._settings.namespace_prefix,
            owner_uid=self._settings.owner_uid,
        )
        return self._desired

    def actual(self) -> set[str]:
        prefix = instance_namespace("", self._settings.namespace_prefix)
        namespaces = self._adapters.configurator.namespaces()
        with_namespace = {name.removeprefix(prefix) for name in namespaces if name.startswith(prefix)}
        return with_namespace | self._adapters.driver.servers() | set(self._plugged)

    def ensure(self, key: str, desired: DesiredServer) -> Iterable[str]:
        if desired.fault:
            raise NotRunnableError(desired.fault)
        with self._lock:
            changes = [*self._apply_filters(desired), *self._plug(desired)]
            changes += self._detach(self._plugged.get(key), desired)
            self._plugged[key] = desired
            self._report_unplugged()
            self._provisioning.report(self._ports_in_place(desired), "l2")
            return [*changes, *self._power.step(self._current(key, desired))]

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        """Stops the server, and removes its files, its namespace with the taps, and at the end the filters of the taps.

        If a step fails, the filters stay in force as long as the taps exist (`cleanup`).
        """
        with self._lock:
            self._adapters.driver.remove(key)
            self._adapters.configurator.remove_namespace(instance_namespace(key, self._settings.namespace_prefix))
            self._power.forget(key)
            before = self._plugged.pop(key, None)
            if before is not None:
                self._unplugged |= {port.id: port.binding_generation for port in before.ports if port.id in view.ports}
                self._unplug({port.tap_name for port in before.ports})
                self._remove_filters({filter_.tap for filter_ in before.filters})
            self._report_unplugged()
        return [f"remove server {key}"]

    def cleanup(self, view: CloudView) -> Iterable[str]:
        self._provisioning.forget_all_but(view.ports)
        changes = self._unplug(self._adapters.port_security.taps())
        filters = [filter_ for desired in self._desired.values() for filter_ in desired.filters]
        others = self._adapters.port_security.taps() - {filter_.tap for filter_ in filters}
        kept = self._adapters.configurator.own_devices(others)
        return [*changes, *self._adapters.port_security.apply(filters, kept)]

    def pids(self) -> Iterable[int]:
        return self._adapters.driver.pids()

    def step_power(self, on_error: Callable[[str, Exception], None]) -> None:
        """Handles expired port timeouts and exited instances between two passes.

        Calls `on_error` with the server id and the error of each failure.
        """
        with self._lock:
            for key, desired in self._plugged.items():
                try:
                    self._power.step(self._current(key, desired))
                except Exception as error:  # noqa: BLE001 - a failing server must not affect the others
                    on_error(key, error)

    def _current(self, key: str, desired: DesiredServer) -> DesiredServer:
        """The newest value that equals `desired`. Its server has the newest status, which the comparison ignores."""
        newest = self._desired.get(key)
        return newest if newest is not None and newest == desired else desired

    def _apply_filters(self, desired: DesiredServer) -> list[str]:
        """Applies the filters before a device is plugged in, so that no packet bypasses them."""
        return [change for filter_ in desired.filters for change in self._adapters.port_security.ensure(filter_)]

    def _plug(self, desired: DesiredServer) -> list[str]:
        configurator = self._adapters.configurator
        changes = [change for bridge in desired.bridges for change in configurator.ensure_bridge(bridge)]
        if desired.server.driver == EXTERNAL:
            return changes
        if desired.server.driver != NETNS:
            raise NotRunnableError(f"there is no driver {desired.server.driver!r} here: use netns or external")
        if desired.namespace.name not in configurator.namespaces():
            self._adapters.driver.forget_boot(desired.server.id)
        return [*changes, *configurator.apply(desired.namespace)]

    def _ports_in_place(self, desired: DesiredServer) -> list[Port]:
        if desired.server.driver == NETNS:
            return list(desired.ports)
        devices = {device.host_name: device.bridge for device in desired.namespace.devices}
        return [
            port for port in desired.ports if self._adapters.configurator.plug(port.tap_name, devices[port.tap_name])
        ]

    def _detach(self, before: DesiredServer | None, desired: DesiredServer) -> list[str]:
        """Unplugs ports that were detached from the server, and removes the filters of ports without port security."""
        for port in desired.ports:
            self._unplugged.pop(port.id, None)
        if before is None:
            return []
        attached = set(desired.server.port_ids)
        self._unplugged |= {port.id: port.binding_generation for port in before.ports if port.id not in attached}
        changes = self._unplug({port.tap_name for port in before.ports if port.id not in attached})
        taps_before, taps = ({filter_.tap for filter_ in server.filters} for server in (before, desired))
        return [*changes, *self._remove_filters(taps_before - taps)]

    def _unplug(self, taps: set[str]) -> list[str]:
        """Unplugs the taps of ports that belong to no server of this host.

        A tap that another program created can exist longer than its port. Its packets would bypass port security then.
        """
        if not taps:
            return []
        used = {port.tap_name for desired in self._desired.values() for port in desired.ports}
        return [change for tap in sorted(taps - used) for change in self._adapters.configurator.unplug(tap)]

    def _remove_filters(self, taps: set[str]) -> list[str]:
        """Removes the filters of taps, except those of ports that now belong to another server of this host."""
        if not taps:
            return []
        used = {filter_.tap for desired in self._desired.values() for filter_ in desired.filters}
        return [change for tap in sorted(taps - used) for change in self._adapters.port_security.remove(tap)]

    def _report_unplugged(self) -> None:
        for port_id, binding_generation in sorted(self._unplugged.items()):
            try:
                self._adapters.api.port_unplugged(port_id, binding_generation or None)
            except Exception as error:
                if getattr(error, "status", None) != 404:  # the port was deleted
                    raise
            del self._unplugged[port_id]
