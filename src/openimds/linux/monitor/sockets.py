"""Sockets on which the kernel reports changes, polled together with epoll, and the event sockets of each namespace."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from openimds.linux.fd_budget import within_budget
from openimds.linux.monitor import netlink_events
from openimds.linux.monitor.resource_index import WatchKey
from openimds.linux.netlink.socket import BUFFER_BYTES, NETLINK_NETFILTER, open_socket
from openimds.linux.netns import netns


@dataclass(frozen=True, slots=True)
class EventSocket:
    """A socket, and the function that turns a received datagram into watch keys."""

    socket: socket.socket
    parse: Callable[[bytes], Iterable[WatchKey]]


class EventSockets:
    """Event sockets by file descriptor. Not thread-safe, except for `wait`."""

    def __init__(self) -> None:
        self._sockets: dict[int, EventSocket] = {}
        self._epoll = select.epoll()

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._sockets

    def watch_descriptor(self, descriptor: int) -> None:
        """Includes a descriptor in `wait` that the caller reads and closes."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def add(self, event_socket: EventSocket) -> int:
        """Adds a socket and returns its descriptor."""
        descriptor = event_socket.socket.fileno()
        self._sockets[descriptor] = event_socket
        self._epoll.register(descriptor, select.EPOLLIN)
        return descriptor

    def remove(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._sockets.pop(descriptor).socket.close()

    def wait(self, timeout_seconds: float) -> list[int]:
        """Returns the readable descriptors. Empty after the timeout."""
        return [descriptor for descriptor, _events in self._epoll.poll(timeout_seconds)]

    def drain(self, descriptor: int) -> tuple[list[WatchKey], bool]:
        """Reads all pending datagrams. Returns their keys, and whether events were lost (ENOBUFS, reported once)."""
        event_socket, keys, lost = self._sockets[descriptor], list[WatchKey](), False
        while True:
            try:
                keys += event_socket.parse(event_socket.socket.recv(BUFFER_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return keys, lost
            except OSError as error:
                lost = True
                if error.errno != errno.ENOBUFS:
                    return keys, lost

    def close(self) -> None:
        for event_socket in self._sockets.values():
            event_socket.socket.close()
        self._sockets.clear()
        self._epoll.close()


@dataclass(slots=True)
class _WatchedNamespace:
    identity: tuple[int, int]
    with_rules: bool
    descriptors: tuple[int, ...]
    settings_differ: Callable[[], bool]


class NamespaceSockets:
    """The event sockets of namespaces, by namespace name. Not thread-safe."""

    def __init__(self, sockets: EventSockets) -> None:
        self._sockets = sockets
        self._watched: dict[str, _WatchedNamespace] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._watched)

    def is_replaced(self, name: str) -> bool:
        """True if the watched namespace was replaced by another one of the same name."""
        watched = self._watched.get(name)
        return watched is not None and watched.identity != netns.identity(name)

    def watch(self, name: str, *, with_rules: bool, settings_differ: Callable[[], bool]) -> None:
        """Opens the sockets of a namespace, unless it does not exist or the descriptor budget is exceeded."""
        watched = self._watched.get(name)
        if watched is not None and watched.with_rules == with_rules:
            watched.settings_differ = settings_differ
            return
        self.unwatch(name)
        with contextlib.suppress(netns.NamespaceMissingError, OSError):
            identity, opened = netns.run_in(name, lambda: (netns.current_identity(), _open_sockets(with_rules)))
            if all(within_budget(one.fileno(), for_events=True) for one in opened):
                key: WatchKey = ("netns", name)
                descriptors = tuple(self._sockets.add(EventSocket(one, lambda _: [key])) for one in opened)
                self._watched[name] = _WatchedNamespace(identity, with_rules, descriptors, settings_differ)
            else:
                _close_all(opened)

    def unwatch(self, name: str) -> None:
        """Closes the sockets, which would keep a deleted namespace alive. Idempotent."""
        watched = self._watched.pop(name, None)
        for descriptor in watched.descriptors if watched is not None else ():
            self._sockets.remove(descriptor)

    def settings_match(self, name: str) -> bool:
        """True if the namespace's settings have their desired values, or it is not watched."""
        watched = self._watched.get(name)
        return watched is None or not watched.settings_differ()


def _open_sockets(with_rules: bool) -> list[socket.socket]:
    """Opens the sockets of the calling thread's namespace. Raises OSError."""
    opened = [open_socket(groups=netlink_events.RTMGRP_ALL)]
    try:
        if with_rules:
            opened.append(open_socket(NETLINK_NETFILTER, netlink_events.NFT_GROUP))
    except OSError:
        _close_all(opened)
        raise
    return opened


def _close_all(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()
