"""What is in namespaces besides what `Kernel` makes there: who listens, and whether a connection comes about."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, replace

from openimds.linux.netlink.sock_diag import ListeningSockets, find_listener, has_sock_diag, listening_sockets
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandle, NamespaceHandles
from openimds.linux.sysctl import kernel_has_ipv6
from openimds.netconfig.listener_file import ListenAddress

CONNECT_TIMEOUT_SECONDS = 0.5
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class NamespaceSnapshot:
    """What a namespace has."""

    inode: int
    device_indexes: dict[str, int]
    """0: there is no such device."""
    listening: ListeningSockets
    """At an address that was asked for; of several sockets there (SO_REUSEPORT) one, the same while they are."""
    has_ipv6: bool


class NamespaceProbe:
    def __init__(self, windows: NamespaceHandles) -> None:
        self._windows = windows

    def snapshot(self, namespace: str, addresses: Collection[ListenAddress]) -> NamespaceSnapshot:
        """Raises NamespaceMissingError, OSError."""
        with self._windows.at(namespace) as window:
            devices = {address.device for address in addresses if address.device}
            links = {link.name: link.index for link in window.links()} if devices else {}
            indexes = {device: links.get(device, 0) for device in devices}
            meant = [replace(one, device_index=indexes.get(one.device, 0)) for one in addresses]
            return NamespaceSnapshot(window.identity[1], indexes, self._listening_at(window, meant), kernel_has_ipv6())

    def listening_sockets(self, namespace: str) -> ListeningSockets:
        """All of them. Raises NamespaceMissingError."""
        return netns.run_in(namespace, listening_sockets)

    def can_connect(self, namespace: str, address: ListenAddress, mark: int = 0) -> bool:
        """Whether a TCP connection from inside the namespace to the address comes about. `mark`: SO_MARK, by which the
        namespace's firewall knows whom to let in. Raises NamespaceMissingError.
        """

        def connect() -> bool:
            family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(CONNECT_TIMEOUT_SECONDS)
                if mark:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
                return probe.connect_ex((_LOOPBACK.get(address.host, address.host), address.port)) == 0

        return netns.run_in(namespace, connect)

    def sockets_of(self, pid: int) -> frozenset[int]:
        """The inodes of a process's sockets; none when it is gone."""
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            return frozenset()
        targets = [_read_link(f"/proc/{pid}/fd/{number}") for number in numbers]
        return frozenset(int(target[8:-1]) for target in targets if target.startswith("socket:["))

    def _listening_at(self, window: NamespaceHandle, addresses: Collection[ListenAddress]) -> ListeningSockets:
        if not has_sock_diag():
            found = self.listening_sockets(window.name)
            return {place: found[place] for one in addresses if (place := (one.host, one.port)) in found}
        asked = {(one.host, one.port): find_listener(window.sock_diag, one) for one in addresses}
        return {place: frozenset({inode}) for place, inode in asked.items() if inode is not None}


def _read_link(descriptor: str) -> str:
    """Empty: it was closed meanwhile, as connections are all the time."""
    try:
        return os.readlink(descriptor)
    except OSError:
        return ""
