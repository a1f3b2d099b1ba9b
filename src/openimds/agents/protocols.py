"""The mirrored cloud state and the host adapters that the agents use."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from openimds.netconfig.namespace_state import Bridge, Daemon, NamespaceState
from openimds.resources.network import FloatingIP, Network, Port, Router, Subnet
from openimds.resources.server import Server


class CloudView(Protocol):
    """The state as it was at one revision. Mappings by id."""

    @property
    def revision(self) -> int:
        """Negative: nothing is known yet."""

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
        """`callback` is called with every new view, on a thread of the mirror's."""


class DadState(Protocol):
    @property
    def is_duplicate(self) -> bool:
        """Somebody else has the address."""

    @property
    def is_tentative(self) -> bool:
        """The kernel is still asking."""

    @property
    def is_unanswered(self) -> bool:
        """Somebody else had it, and answers for it no more."""


class NetworkConfigurator(Protocol):
    def namespaces(self) -> set[str]: ...
    def apply(self, desired: NamespaceState) -> tuple[str, ...]: ...
    def remove_namespace(self, name: str) -> None: ...
    def bridges(self) -> set[str]: ...
    def ensure_bridge(self, bridge: Bridge) -> tuple[str, ...]: ...
    def remove_bridge(self, name: str) -> bool: ...
    def plug(self, host_name: str, bridge: str) -> bool:
        """Another program's tap; False: there is none of this name."""

    def unplug(self, host_name: str) -> tuple[str, ...]:
        """The device, if there is one, is on no bridge and down; the changes made, in words."""

    def dad_state(self, namespace: str, device: str, interface: str) -> DadState | None: ...
    def restart_dad(self, namespace: str, device: str, interface: str) -> None: ...


class RunProgram(Protocol):
    """A program, run to its end."""

    def __call__(self, argv: Sequence[str], *, namespace: str | None = None) -> str: ...


class DaemonManager(Protocol):
    """Programs that go on when their agent ends."""

    def running_pid(self, daemon: Daemon) -> int | None: ...
    def start(self, daemon: Daemon) -> int: ...
    def stop(self, daemon: Daemon) -> None: ...
    def send_signal(self, daemon: Daemon, sent: signal.Signals) -> bool: ...
    def stop_stale(self, daemon: Daemon) -> None: ...
