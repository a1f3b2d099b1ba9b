"""The mirrored cloud state and the host adapters that the agents use."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from openimds.netconfig.namespace_state import Bridge, Daemon, NamespaceState
from openimds.resources.network import FloatingIP, Network, Port, Router, Subnet
from openimds.resources.server import Server


class CloudView(Protocol):
    """The state at one revision, as mappings by id."""

    @property
    def revision(self) -> int:
        """The revision number; negative until the mirror has loaded."""

    @property
    def is_trusted(self) -> bool:
        """False after the database was replaced or restored from an older copy. Nothing is removed then."""

    @property
    def networks(self) -> Mapping[str, Network]: ...
    @property
    def subnets(self) -> Mapping[str, Subnet]: ...
    @property
    def ports(self) -> Mapping[str, Port]: ...
    @property
    def routers(self) -> Mapping[str, Router]: ...
    @property
    def floating_ips(self) -> Mapping[str, FloatingIP]: ...
    @property
    def servers(self) -> Mapping[str, Server]: ...


class CloudMirror(Protocol):
    def view(self) -> CloudView: ...

    def subscribe(self, callback: Callable[[object], None], /) -> None:
        """Calls `callback` with each new view, on the mirror's thread."""


class DadState(Protocol):
    """The state of duplicate address detection (RFC 4862, 5.4) for one address."""

    @property
    def is_duplicate(self) -> bool:
        """Whether another node has the address."""

    @property
    def is_tentative(self) -> bool:
        """Whether the detection is still under way."""

    @property
    def is_unanswered(self) -> bool:
        """Whether the other node had the address, and no longer answers neighbour solicitations for it."""


class NetworkConfigurator(Protocol):
    def namespaces(self) -> set[str]: ...
    def apply(self, desired: NamespaceState) -> tuple[str, ...]: ...
    def remove_namespace(self, name: str) -> None: ...
    def bridges(self) -> set[str]: ...
    def ensure_bridge(self, bridge: Bridge) -> tuple[str, ...]: ...
    def remove_bridge(self, name: str) -> bool: ...
    def plug(self, host_name: str, bridge: str) -> bool:
        """Attaches another program's tap to the bridge. Returns False if no device has this name."""

    def unplug(self, host_name: str) -> tuple[str, ...]:
        """Detaches the device from its bridge and sets it down, if it exists. Returns a description of each change."""

    def own_devices(self, names: Collection[str]) -> set[str]:
        """Those of the host's devices that this system created and that exist."""

    def dad_state(self, namespace: str, device: str, interface: str) -> DadState | None: ...
    def restart_dad(self, namespace: str, device: str, interface: str) -> None: ...


class RunProgram(Protocol):
    """Runs a program to its end, and returns its output."""

    def __call__(self, argv: Sequence[str], *, namespace: str | None = None) -> str: ...


class DaemonManager(Protocol):
    """Starts and stops programs that keep running when the agent exits."""

    def running_pid(self, daemon: Daemon) -> int | None: ...
    def start(self, daemon: Daemon) -> int: ...
    def stop(self, daemon: Daemon) -> None: ...
    def send_signal(self, daemon: Daemon, sent: signal.Signals) -> bool: ...
    def stop_stale(self, daemon: Daemon) -> None: ...
