"""The compute agent's trade: a server gets its bridges, its port security, its namespace with its NICs, and its power."""

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
    """What the compute agent is told."""

    host: str
    namespace_prefix: str = ""
    owner_uid: int
    """Who a guest's root is on the host."""


class NotRunnableError(Exception):
    """A server that this agent cannot run."""


class ServerHandler:
    """One lock for wires and power: what boots is wired, and what is taken away is off."""

    kind = "server"

    def __init__(self, adapters: ComputeAdapters, settings: ComputeSettings, power: PowerManager) -> None:
        self._adapters = adapters
        self._settings = settings
        self._power = power
        self._provisioning = ProvisioningBlocks(adapters.api)
        self._wanted: Mapping[str, DesiredServer] = {}
        self._plugged: dict[str, DesiredServer] = {}
        self._unplugged: dict[str, int] = {}
        """Ports whose device has disappeared and was not reported yet, with the binding that it belonged to."""
        self._lock = threading.RLock()

    @property
    def report(self) -> Mapping[str, Mapping[str, object]]:
        """What is true of each server, for the heartbeat."""
        return self._power.report

    def desired(self, view: CloudView) -> Mapping[str, DesiredServer]:
        self._wanted = desired_servers(
            view,
            host=self._settings.host,
            namespace_prefix=self._settings.namespace_prefix,
            owner_uid=self._settings.owner_uid,
        )
        return self._wanted

    def actual(self) -> set[str]:
        prefix = instance_namespace("", self._settings.namespace_prefix)
        spaces = {
            name.removeprefix(prefix) for name in self._adapters.configurator.namespaces() if name.startswith(prefix)
        }
        return spaces | self._adapters.driver.servers() | set(self._plugged)

    def ensure(self, key: str, wanted: DesiredServer) -> Iterable[str]:
        if wanted.fault:
            raise NotRunnableError(wanted.fault)
        with self._lock:
            words = [*self._secure(wanted), *self._plug(wanted)]
            words += self._note_detached(self._plugged.get(key), wanted)
            self._plugged[key] = wanted
            self._tell_unplugged()
            self._provisioning.report(self._ports_in_place(wanted), "l2")
            return [*words, *self._power.step(self._as_shown(key, wanted))]

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        """The server, its files and its wires are no more."""
        with self._lock:
            self._adapters.driver.remove(key)
            self._adapters.configurator.remove_namespace(instance_namespace(key, self._settings.namespace_prefix))
            self._power.forget(key)
            before = self._plugged.pop(key, None)
            if before is not None:
                self._unplugged |= {port.id: port.binding_generation for port in before.ports if port.id in view.ports}
                self._take_off_bridges({port.tap_name for port in before.ports})
                self._drop({one.tap for one in before.filters})
            self._tell_unplugged()
        return [f"remove server {key}"]

    def cleanup(self, view: CloudView) -> Iterable[str]:
        self._provisioning.forget_all_but(view.ports)
        words = self._take_off_bridges(self._adapters.port_security.taps())
        filters = (one for wanted in self._wanted.values() for one in wanted.filters)
        return [*words, *self._adapters.port_security.apply(filters)]

    def pids(self) -> Iterable[int]:
        return self._adapters.driver.pids()

    def step_power(self, tell: Callable[[str, Exception], None]) -> None:
        """Between two rounds: a boot that has waited long enough, a guest that ended. `tell`: what failed, of whom."""
        with self._lock:
            for key, wanted in self._plugged.items():
                try:
                    self._power.step(self._as_shown(key, wanted))
                except Exception as error:  # noqa: BLE001 - one server's trouble is not the others'
                    tell(key, error)

    def _as_shown(self, key: str, wanted: DesiredServer) -> DesiredServer:
        """The newest value that equals `wanted`: its server has the newest status."""
        shown = self._wanted.get(key)
        return shown if shown is not None and shown == wanted else wanted

    def _secure(self, wanted: DesiredServer) -> list[str]:
        """Before anything is plugged in: no packet leaves unlooked at."""
        return [word for one in wanted.filters for word in self._adapters.port_security.ensure(one)]

    def _plug(self, wanted: DesiredServer) -> list[str]:
        words = [word for bridge in wanted.bridges for word in self._adapters.configurator.ensure_bridge(bridge)]
        if wanted.server.driver == EXTERNAL:
            return words
        if wanted.server.driver != NETNS:
            raise NotRunnableError(f"there is no driver {wanted.server.driver!r} here: use netns or external")
        if wanted.namespace.name not in self._adapters.configurator.namespaces():
            self._adapters.driver.forget_boot(wanted.server.id)
        return [*words, *self._adapters.configurator.apply(wanted.namespace)]

    def _ports_in_place(self, wanted: DesiredServer) -> list[Port]:
        if wanted.server.driver == NETNS:
            return list(wanted.ports)
        devices = {device.host_name: device.bridge for device in wanted.namespace.devices}
        return [
            port for port in wanted.ports if self._adapters.configurator.plug(port.tap_name, devices[port.tap_name])
        ]

    def _note_detached(self, before: DesiredServer | None, wanted: DesiredServer) -> list[str]:
        """Ports that were taken off the server, or whose port security was switched off."""
        for port in wanted.ports:
            self._unplugged.pop(port.id, None)
        if before is None:
            return []
        kept = set(wanted.server.port_ids)
        self._unplugged |= {port.id: port.binding_generation for port in before.ports if port.id not in kept}
        words = self._take_off_bridges({port.tap_name for port in before.ports if port.id not in kept})
        return [*words, *self._drop({one.tap for one in before.filters} - {one.tap for one in wanted.filters})]

    def _take_off_bridges(self, taps: set[str]) -> list[str]:
        """Taps of ports that no server of this host has now. Another program's tap outlives its port, and a tap without
        rules may send anything.
        """
        if not taps:
            return []
        used = {port.tap_name for wanted in self._wanted.values() for port in wanted.ports}
        return [word for tap in sorted(taps - used) for word in self._adapters.configurator.unplug(tap)]

    def _drop(self, taps: set[str]) -> list[str]:
        """Remove the rules of taps, except those of ports that another server of this host has now."""
        if not taps:
            return []
        used = {one.tap for wanted in self._wanted.values() for one in wanted.filters}
        return [word for tap in sorted(taps - used) for word in self._adapters.port_security.remove(tap)]

    def _tell_unplugged(self) -> None:
        for port_id, binding_generation in sorted(self._unplugged.items()):
            try:
                self._adapters.api.port_unplugged(port_id, binding_generation or None)
            except Exception as error:
                if getattr(error, "status", None) != 404:  # deleted meanwhile
                    raise
            del self._unplugged[port_id]
