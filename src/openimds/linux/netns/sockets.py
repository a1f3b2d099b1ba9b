"""Listening TCP sockets inside namespaces, opened by a process outside.

A socket belongs to the namespace that it was opened in, not to that of its process. One thread enters the namespaces in
turn and opens a listening socket in each.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from openimds.linux.netns import netns
from openimds.netconfig.listener_file import ListenAddress

BACKLOG = 4096
IPV6_FREEBIND = 78
"""linux/in6.h. Python 3.11 has neither this constant nor IP_FREEBIND, which is 15 in linux/in.h."""
IP_FREEBIND = 15
TCP_SAVE_SYN = 27
TCP_SAVED_SYN = 28
SAVE_LINK_LAYER = 2
"""The value 1 of tcp(7) saves the IP and TCP headers. The value 2 (Linux 5.10) also saves the link layer's header."""
SIOCGSKNS = 0x894C
NO_IPV6 = "the kernel has no IPv6; guests reach the metadata service by IPv4 only"
_MAX_SYN_BYTES = 512


@dataclass(frozen=True, slots=True)
class NamespaceRef:
    """A namespace by name and inode, so that a later namespace of the same name is not meant."""

    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class OpenResult:
    """A listening socket, or the reason of the failure."""

    socket: socket.socket | None
    failure: str = ""


def open_listeners(targets: Sequence[tuple[NamespaceRef, ListenAddress]]) -> list[OpenResult]:
    """Opens listening sockets and returns one result per item, in order.

    Items of one namespace should be adjacent, because the namespace is then entered once. The address may be missing
    from the namespace (IP_FREEBIND), but the device of a link-local address must exist. SO_REUSEPORT lets another socket
    of the same user listen on the address at the same time.
    """
    opened: list[OpenResult] = []
    thread = threading.Thread(target=lambda: opened.extend(_open_each(targets)), name="open-listeners", daemon=True)
    thread.start()
    thread.join()
    return opened


def is_listener_for(listener: socket.socket, namespace: NamespaceRef, address: ListenAddress) -> bool:
    """True if an inherited socket listens on the address in the namespace. Any error means False."""
    try:
        return _netns_inode(listener) == namespace.inode and listener.getsockname()[:2] == (
            _expected_host(listener, address),
            address.port,
        )
    except OSError:
        return False


class Connected(Protocol):
    """A socket, or an event loop's wrapper of one."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def saved_syn(connected: Connected) -> bytes:
    """The SYN packet of an accepted connection with its link-layer header, or an empty string.

    The kernel returns it once.
    """
    try:
        return connected.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, _MAX_SYN_BYTES)
    except OSError:
        return b""


def _open_each(targets: Sequence[tuple[NamespaceRef, ListenAddress]]) -> Iterator[OpenResult]:
    current: NamespaceRef | None = None
    for namespace, address in targets:
        try:
            if namespace != current:
                current = None
                netns.enter(namespace.name)
                _require_inode(namespace)
                current = namespace
            yield OpenResult(_open_listener(address))
        except netns.NamespaceMissingError as error:
            yield OpenResult(None, str(error))
        except OSError as error:
            yield OpenResult(None, _describe_error(namespace, address, error))


def _require_inode(namespace: NamespaceRef) -> None:
    if netns.current_identity()[1] != namespace.inode:
        raise netns.NamespaceMissingError(f"{namespace.name} was replaced by another namespace of the same name")


def _open_listener(address: ListenAddress) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if address.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, SAVE_LINK_LAYER)
        if address.is_ipv6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            listener.bind((address.host, address.port, 0, _scope_id(address)))
        else:
            listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _scope_id(address: ListenAddress) -> int:
    if not address.device:
        return 0
    return address.device_index or socket.if_nametoindex(address.device)


def _expected_host(listener: socket.socket, address: ListenAddress) -> str:
    """The address as getsockname() writes it, or an empty string if the socket is bound to another device."""
    if address.device and listener.getsockname()[3] != address.device_index:
        return ""
    return listener.getsockname()[0] if listener.getsockname()[0].partition("%")[0] == address.host else address.host


def _netns_inode(listener: socket.socket) -> int:
    descriptor = fcntl.ioctl(listener.fileno(), SIOCGSKNS)
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _describe_error(namespace: NamespaceRef, address: ListenAddress, error: OSError) -> str:
    if error.errno == errno.EAFNOSUPPORT and address.is_ipv6:
        return NO_IPV6
    if error.errno == errno.EADDRINUSE:
        return f"{address} in {namespace.name} is in use by another program without SO_REUSEPORT; stop that program"
    return f"cannot listen on {address} in {namespace.name}: {error.strerror or error}"
