"""Netlink and other sockets on which the kernel tells what changes, waited for together.

What others do inside namespaces: heard by a socket of each, opened in it, and read from its settings.
"""

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
    """A socket, and what is concluded from whatever comes in on it."""

    conversation: socket.socket
    notes: Callable[[bytes], Iterable[WatchKey]]


class EventSockets:
    """Not for two threads at once, but for `ready`."""

    def __init__(self) -> None:
        self._heard: dict[int, EventSocket] = {}
        self._epoll = select.epoll()

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._heard

    def wait_also_for(self, descriptor: int) -> None:
        """Something else that can be read, by somebody else."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def add(self, heard: EventSocket) -> int:
        """Its descriptor."""
        descriptor = heard.conversation.fileno()
        self._heard[descriptor] = heard
        self._epoll.register(descriptor, select.EPOLLIN)
        return descriptor

    def remove(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._heard.pop(descriptor).conversation.close()

    def ready(self, seconds: float) -> list[int]:
        """The descriptors that have something; after so many seconds none."""
        return [descriptor for descriptor, _events in self._epoll.poll(seconds)]

    def drain(self, descriptor: int) -> tuple[list[WatchKey], bool]:
        """What has come in, and whether something was missed: the kernel says ENOBUFS once."""
        heard, notes, missed = self._heard[descriptor], list[WatchKey](), False
        while True:
            try:
                notes += heard.notes(heard.conversation.recv(BUFFER_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return notes, missed
            except OSError as error:
                missed = True
                if error.errno != errno.ENOBUFS:
                    return notes, missed

    def close(self) -> None:
        for heard in self._heard.values():
            heard.conversation.close()
        self._heard.clear()
        self._epoll.close()


@dataclass(slots=True)
class _WatchedNamespace:
    identity: tuple[int, int]
    with_rules: bool
    descriptors: tuple[int, ...]
    settings_differ: Callable[[], bool]


class NamespaceSockets:
    """By name. Not for two threads at once."""

    def __init__(self, sockets: EventSockets) -> None:
        self._sockets = sockets
        self._known: dict[str, _WatchedNamespace] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def is_another(self, name: str) -> bool:
        """Than the one of that name that is heard of."""
        known = self._known.get(name)
        return known is not None and known.identity != netns.identity(name)

    def hear(self, name: str, *, with_rules: bool, settings_differ: Callable[[], bool]) -> None:
        """From now on. Nothing happens where there is none, or are no descriptors to spare."""
        known = self._known.get(name)
        if known is not None and known.with_rules == with_rules:
            known.settings_differ = settings_differ
            return
        self.let_go(name)
        with contextlib.suppress(netns.NamespaceMissingError, OSError):
            identity, opened_there = netns.run_in(name, lambda: (netns.current_identity(), _open_sockets(with_rules)))
            if all(within_budget(one.fileno(), for_events=True) for one in opened_there):
                note: WatchKey = ("netns", name)
                descriptors = tuple(self._sockets.add(EventSocket(one, lambda _: [note])) for one in opened_there)
                self._known[name] = _WatchedNamespace(identity, with_rules, descriptors, settings_differ)
            else:
                _close_all(opened_there)

    def let_go(self, name: str) -> None:
        """A socket would keep a namespace in being. Idempotent."""
        known = self._known.pop(name, None)
        for descriptor in known.descriptors if known is not None else ():
            self._sockets.remove(descriptor)

    def is_right(self, name: str) -> bool:
        """As far as its settings say."""
        known = self._known.get(name)
        return known is None or not known.settings_differ()


def _open_sockets(with_rules: bool) -> list[socket.socket]:
    """By a thread in the namespace. Raises OSError."""
    found = [open_socket(groups=netlink_events.RTMGRP_ALL)]
    try:
        if with_rules:
            found.append(open_socket(NETLINK_NETFILTER, netlink_events.NFT_GROUP))
    except OSError:
        _close_all(found)
        raise
    return found


def _close_all(conversations: list[socket.socket]) -> None:
    for conversation in conversations:
        conversation.close()
