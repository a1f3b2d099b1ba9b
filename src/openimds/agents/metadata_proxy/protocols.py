"""What the keepers of proxies ask about namespaces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from openimds.netconfig.listener_file import ListenAddress


class NotListeningError(Exception):
    """Nothing takes the guests' requests in a namespace yet."""


class NamespaceSnapshot(Protocol):
    """What a namespace has at this moment."""

    @property
    def inode(self) -> int: ...
    @property
    def device_indexes(self) -> Mapping[str, int]: ...
    @property
    def listening(self) -> Mapping[tuple[str, int], frozenset[int]]:
        """(address, port) → inodes of sockets that listen there: one of those that do, the same while they are."""

    @property
    def has_ipv6(self) -> bool: ...


class Namespaces(Protocol):
    """The kernel's."""

    def snapshot(self, namespace: str, addresses: Collection[ListenAddress]) -> NamespaceSnapshot:
        """At who listens at these addresses, and at their devices."""

    def listening_sockets(self, namespace: str) -> Mapping[tuple[str, int], frozenset[int]]:
        """(address, port) → the inodes of all sockets that listen there. Slow where there are many namespaces."""

    def can_connect(self, namespace: str, address: ListenAddress, mark: int) -> bool:
        """From inside the namespace, with packets of this mark."""

    def sockets_of(self, pid: int) -> frozenset[int]:
        """Inodes."""
