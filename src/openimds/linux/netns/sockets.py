"""TCP sockets that listen inside namespaces, opened from outside.

A socket belongs to the namespace that it was opened in, wherever its process is: one thread enters namespace after
namespace and leaves a listening socket in each.
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
"""linux/in6.h; IP_FREEBIND is linux/in.h's 15. Python 3.11 names neither."""
IP_FREEBIND = 15
TCP_SAVE_SYN = 27
TCP_SAVED_SYN = 28
SAVE_LINK_LAYER = 2
"""tcp(7) has only 1, which keeps IP and TCP; since Linux 5.10 2 keeps the link layer's header before them."""
SIOCGSKNS = 0x894C
NO_IPV6 = "there is no IPv6 in this kernel: guests reach the metadata service by IPv4 only"
_MAX_SYN_BYTES = 512


@dataclass(frozen=True, slots=True)
class NamespaceRef:
    """A namespace, and no later one of the same name."""

    namespace: str
    inode: int


@dataclass(frozen=True, slots=True)
class OpenResult:
    """Either the socket, which listens, or why there is none."""

    socket: socket.socket | None
    failure: str = ""


def open_listeners(wanted: Sequence[tuple[NamespaceRef, ListenAddress]]) -> list[OpenResult]:
    """One for each that is wanted, in order. Those of one namespace should follow each other: it is entered once.

    The address need not be there yet (IP_FREEBIND); of a link-local one, the device must. SO_REUSEPORT: another
    listener of the same user on the same address may come and go beside it.
    """
    opened: list[OpenResult] = []
    thread = threading.Thread(target=lambda: opened.extend(_open_each(wanted)), name="opens listeners", daemon=True)
    thread.start()
    thread.join()
    return opened


def is_listener_for(kept: socket.socket, place: NamespaceRef, address: ListenAddress) -> bool:
    """Whether this socket, which another process opened, is the one that is wanted. False also for what is no such."""
    try:
        return _netns_inode(kept) == place.inode and kept.getsockname()[:2] == (
            _expected_host(kept, address),
            address.port,
        )
    except OSError:
        return False


class Connected(Protocol):
    """A socket, or an event loop's stand-in for one."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def saved_syn(connected: Connected) -> bytes:
    """The packet that began an accepted connection, with its link layer's header; empty when there is none.

    The kernel gives it once.
    """
    try:
        return connected.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, _MAX_SYN_BYTES)
    except OSError:
        return b""


def _open_each(wanted: Sequence[tuple[NamespaceRef, ListenAddress]]) -> Iterator[OpenResult]:
    at: NamespaceRef | None = None
    for place, address in wanted:
        try:
            if place != at:
                at = None
                netns.enter(place.namespace)
                _require_inode(place)
                at = place
            yield OpenResult(_open_listener(address))
        except netns.NamespaceMissingError as error:
            yield OpenResult(None, str(error))
        except OSError as error:
            yield OpenResult(None, _describe_error(place, address, error))


def _require_inode(place: NamespaceRef) -> None:
    if netns.current_identity()[1] != place.inode:
        raise netns.NamespaceMissingError(f"{place.namespace} is another namespace than the one that was meant")


def _open_listener(address: ListenAddress) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if address.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, SAVE_LINK_LAYER)
        if address.is_ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            made.bind((address.host, address.port, 0, _scope_id(address)))
        else:
            made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            made.bind((address.host, address.port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _scope_id(address: ListenAddress) -> int:
    if not address.device:
        return 0
    return address.device_index or socket.if_nametoindex(address.device)


def _expected_host(kept: socket.socket, address: ListenAddress) -> str:
    """As getsockname writes it. A link-local address on another device than this one is another address."""
    if address.device and kept.getsockname()[3] != address.device_index:
        return ""
    return kept.getsockname()[0] if kept.getsockname()[0].partition("%")[0] == address.host else address.host


def _netns_inode(kept: socket.socket) -> int:
    descriptor = fcntl.ioctl(kept.fileno(), SIOCGSKNS)
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _describe_error(place: NamespaceRef, address: ListenAddress, error: OSError) -> str:
    if error.errno == errno.EAFNOSUPPORT and address.is_ipv6:
        return NO_IPV6
    if error.errno == errno.EADDRINUSE:
        return f"{address} in {place.namespace} is taken by another program, which does not share it; stop that"
    return f"cannot listen on {address} in {place.namespace}: {error.strerror or error}"
