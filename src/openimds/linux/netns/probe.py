"""The listening sockets of a namespace, and connection attempts from inside it."""

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
    """Devices and listening sockets of a namespace at one time."""

    inode: int
    device_indexes: dict[str, int]
    """Device name → index, which is 0 if the device does not exist."""
    listening: ListeningSockets
    """The sockets that listen at the requested addresses. One socket per address, even if several share it
    (SO_REUSEPORT).
    """
    has_ipv6: bool


class NamespaceProbe:
    def __init__(self, handles: NamespaceHandles) -> None:
        self._handles = handles

    def snapshot(self, namespace: str, addresses: Collection[ListenAddress]) -> NamespaceSnapshot:
        """Reads the devices and the listening sockets of `addresses`. Raises NamespaceMissingError, OSError."""
        with self._handles.open(namespace) as handle:
            devices = {address.device for address in addresses if address.device}
            links = {link.name: link.index for link in handle.links()} if devices else {}
            indexes = {device: links.get(device, 0) for device in devices}
            resolved = [replace(one, device_index=indexes.get(one.device, 0)) for one in addresses]
            return NamespaceSnapshot(
                handle.identity[1], indexes, self._listening_at(handle, resolved), kernel_has_ipv6()
            )

    def listening_sockets(self, namespace: str) -> ListeningSockets:
        """All listening sockets of the namespace. Raises NamespaceMissingError."""
        return netns.run_in(namespace, listening_sockets)

    def can_connect(self, namespace: str, address: ListenAddress, mark: int = 0) -> bool:
        """True if a TCP connection from inside the namespace to the address succeeds. Raises NamespaceMissingError.

        `mark` is the SO_MARK that the namespace's firewall accepts.
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
        """The inodes of a process's sockets. Empty if the process is gone."""
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            return frozenset()
        targets = [_read_link(f"/proc/{pid}/fd/{number}") for number in numbers]
        return frozenset(int(target[8:-1]) for target in targets if target.startswith("socket:["))

    def _listening_at(self, handle: NamespaceHandle, addresses: Collection[ListenAddress]) -> ListeningSockets:
        if not has_sock_diag():
            listening = self.listening_sockets(handle.name)
            return {key: listening[key] for one in addresses if (key := (one.host, one.port)) in listening}
        found = {(one.host, one.port): find_listener(handle.sock_diag, one) for one in addresses}
        return {key: frozenset({inode}) for key, inode in found.items() if inode is not None}


def _read_link(descriptor: str) -> str:
    """Reads a symbolic link. Returns an empty string if the descriptor was closed in the meantime."""
    try:
        return os.readlink(descriptor)
    except OSError:
        return ""
