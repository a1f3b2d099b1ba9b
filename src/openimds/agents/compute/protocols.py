"""What the compute agent needs of the rest of the world."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from openimds.agents.protocols import NetworkConfigurator
from openimds.agents.provisioning_blocks import ProvisioningApi
from openimds.netconfig.netns_instance import BootSpec, BootState
from openimds.netconfig.port_security import PortFilter


class ServersApi(ProvisioningApi, Protocol):
    """The control API."""

    def port_unplugged(self, port_id: str, binding_generation: int | None = None) -> None: ...
    def report_server(
        self, server_id: str, *, boot_generation: int, power_state: str, fault: str | None = None
    ) -> None: ...
    def put_console(self, server_id: str, text: str) -> None: ...


class PortSecurity(Protocol):
    def ensure(self, wanted: PortFilter) -> tuple[str, ...]:
        """One port's rules; does nothing when they are known to be in place."""

    def remove(self, tap: str) -> tuple[str, ...]:
        """Its port is no more."""

    def taps(self) -> set[str]:
        """Those that have rules."""

    def apply(self, wanted: Iterable[PortFilter]) -> tuple[str, ...]:
        """All ports' rules, and no others; looked up, not believed."""


class ComputeDriver(Protocol):
    """The netns driver. `start` raises an error whose text says why the guest did not come up."""

    def servers(self) -> set[str]: ...
    def state(self, server_id: str) -> BootState | None: ...
    def start(self, boot: BootSpec) -> None: ...
    def stop(self, server_id: str) -> bool: ...
    def forget_boot(self, server_id: str) -> None: ...
    def remove(self, server_id: str) -> None: ...
    def pids(self) -> set[int]:
        """The process of each guest that runs."""

    def console_file(self, server_id: str) -> Path: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeAdapters:
    api: ServersApi
    configurator: NetworkConfigurator
    port_security: PortSecurity
    driver: ComputeDriver
