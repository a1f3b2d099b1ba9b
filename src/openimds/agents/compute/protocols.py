"""The adapters that the compute agent uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from openimds.agents.protocols import NetworkConfigurator
from openimds.agents.provisioning_blocks import ProvisioningApi
from openimds.netconfig.netns_instance import BootSpec, BootState
from openimds.netconfig.port_security import PortFilter


class ServersApi(ProvisioningApi, Protocol):
    """The control API, as the compute agent uses it."""

    def port_unplugged(self, port_id: str, binding_generation: int | None = None) -> None: ...
    def report_server(
        self, server_id: str, *, boot_generation: int, power_state: str, fault: str | None = None
    ) -> None: ...
    def put_console(self, server_id: str, text: str) -> None: ...


class PortSecurity(Protocol):
    """The port security rules of this host. Methods return a description of each change."""

    def ensure(self, desired: PortFilter) -> tuple[str, ...]:
        """Applies the rules of one port, unless the cache shows that they are in place."""

    def remove(self, tap: str) -> tuple[str, ...]:
        """Removes the rules of a tap."""

    def taps(self) -> set[str]:
        """The taps that have rules."""

    def apply(self, desired: Iterable[PortFilter], kept: Collection[str] = ()) -> tuple[str, ...]:
        """Applies the rules of all ports and removes all others, except those of the taps `kept`. Reads the actual rules instead of the cache."""


class ComputeDriver(Protocol):
    """A driver that boots servers, such as the netns driver.

    `start` raises an error whose message states why the instance did not start.
    """

    def servers(self) -> set[str]: ...
    def state(self, server_id: str) -> BootState | None: ...
    def start(self, boot: BootSpec) -> None: ...
    def stop(self, server_id: str) -> bool: ...
    def forget_boot(self, server_id: str) -> None: ...
    def remove(self, server_id: str) -> None: ...
    def pids(self) -> set[int]:
        """The PIDs of the running instances."""

    def console_file(self, server_id: str) -> Path: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeAdapters:
    api: ServersApi
    configurator: NetworkConfigurator
    port_security: PortSecurity
    driver: ComputeDriver
