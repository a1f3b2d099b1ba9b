"""What the L3 agent needs of the rest of the world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from openimds.agents.ipv6_metadata_address import DadControl
from openimds.netconfig.namespace_state import Bridge, NamespaceState


class Kernel(DadControl, Protocol):
    def namespaces(self) -> set[str]: ...
    def apply(self, wanted: NamespaceState) -> tuple[str, ...]: ...
    def remove_namespace(self, name: str) -> None: ...
    def ensure_bridge(self, bridge: Bridge) -> tuple[str, ...]: ...


class Announce(Protocol):
    """Gratuitous ARP: the address is at this device now."""

    def __call__(self, namespace: str, device: str, address: str) -> None: ...


class Run(Protocol):
    """A program, run to its end."""

    def __call__(self, argv: Sequence[str], *, namespace: str | None = None) -> str: ...
