"""TCP sockets that listen inside namespaces, opened from outside; and what is known of them.

A socket belongs to the namespace that it was opened in, wherever its process is: one thread enters namespace after
namespace and leaves a listening socket in each.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from openimds.linux import netns
from openimds.linux.listening_sockets import Listening, listening_sockets
from openimds.wiring.listeners import ListenAddress

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
PROBE_SECONDS = 0.5
_MAX_SYN_BYTES = 512
_NOWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace, and no later one of the same name."""

    namespace: str
    inode: int


@dataclass(frozen=True, slots=True)
class Opened:
    """Either the socket, which listens, or why there is none."""

    socket: socket.socket | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Inside:
    """What a namespace has."""

    inode: int
    device_indexes: dict[str, int]
    listening: Listening
    has_ipv6: bool


def open_listeners(wanted: Sequence[tuple[Place, ListenAddress]]) -> list[Opened]:
    """One for each that is wanted, in order. Those of one namespace should follow each other: it is entered once.

    The address need not be there yet (IP_FREEBIND); of a link-local one, the device must. SO_REUSEPORT: another
    listener of the same user on the same address may come and go beside it.
    """
    opened: list[Opened] = []
    thread = threading.Thread(target=lambda: opened.extend(_open_in_turn(wanted)), name="opens listeners", daemon=True)
    thread.start()
    thread.join()
    return opened


def look_inside(namespace: str, devices: Collection[str]) -> Inside:
    """Raises NamespaceMissingError."""

    def look() -> Inside:
        return Inside(
            inode=_own_namespace(),
            device_indexes={device: _index_of(device) for device in devices},
            listening=listening_sockets(),
            has_ipv6=Path("/proc/thread-self/net/tcp6").exists(),
        )

    return netns.in_namespace(namespace, look)


def connects(namespace: str, address: ListenAddress, mark: int = 0) -> bool:
    """Whether a TCP connection from inside the namespace to the address comes about. `mark`: SO_MARK, by which the
    namespace's firewall knows whom to let in. Raises NamespaceMissingError.
    """

    def connect() -> bool:
        family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_SECONDS)
            if mark:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            return probe.connect_ex((_NOWHERE.get(address.host, address.host), address.port)) == 0

    return netns.in_namespace(namespace, connect)


def is_listener_at(kept: socket.socket, place: Place, address: ListenAddress) -> bool:
    """Whether this socket, which another process opened, is the one that is wanted. False also for what is no such."""
    try:
        return _namespace_of(kept) == place.inode and kept.getsockname()[:2] == (_spelt(kept, address), address.port)
    except OSError:
        return False


def sockets_of(pid: int) -> frozenset[int]:
    """The inodes of a process's sockets; none when it is gone."""
    found = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            target = os.readlink(entry.path)
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    except OSError:
        return frozenset(found)
    return frozenset(found)


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


def _open_in_turn(wanted: Sequence[tuple[Place, ListenAddress]]) -> Iterator[Opened]:
    at: Place | None = None
    for place, address in wanted:
        try:
            if place != at:
                at = None
                netns.enter(place.namespace)
                _require(place)
                at = place
            yield Opened(_listener(address))
        except netns.NamespaceMissingError as error:
            yield Opened(None, str(error))
        except OSError as error:
            yield Opened(None, _sentence(place, address, error))


def _require(place: Place) -> None:
    if _own_namespace() != place.inode:
        raise netns.NamespaceMissingError(f"{place.namespace} is another namespace than the one that was meant")


def _own_namespace() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def _listener(address: ListenAddress) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if address.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, SAVE_LINK_LAYER)
        if address.is_ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            made.bind((address.host, address.port, 0, _scope_of(address)))
        else:
            made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            made.bind((address.host, address.port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _scope_of(address: ListenAddress) -> int:
    if not address.device:
        return 0
    return address.device_index or socket.if_nametoindex(address.device)


def _index_of(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


def _spelt(kept: socket.socket, address: ListenAddress) -> str:
    """As getsockname writes it. A link-local address on another device than this one is another address."""
    if address.device and kept.getsockname()[3] != address.device_index:
        return ""
    return kept.getsockname()[0] if kept.getsockname()[0].partition("%")[0] == address.host else address.host


def _namespace_of(kept: socket.socket) -> int:
    descriptor = fcntl.ioctl(kept.fileno(), SIOCGSKNS)
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _sentence(place: Place, address: ListenAddress, error: OSError) -> str:
    if error.errno == errno.EAFNOSUPPORT and address.is_ipv6:
        return NO_IPV6
    if error.errno == errno.EADDRINUSE:
        return f"{address} in {place.namespace} is taken by another program, which does not share it; stop that"
    return f"cannot listen on {address} in {place.namespace}: {error.strerror or error}"
