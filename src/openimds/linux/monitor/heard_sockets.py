"""Netlink and other sockets on which the kernel tells what changes, waited for together."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from openimds.linux.monitor.resource_index import Note
from openimds.linux.netlink.socket import BUFFER_BYTES


@dataclass(frozen=True, slots=True)
class Heard:
    """A socket, and what is concluded from whatever comes in on it."""

    conversation: socket.socket
    notes: Callable[[bytes], Iterable[Note]]


class HeardSockets:
    """Not for two threads at once, but for `ready`."""

    def __init__(self) -> None:
        self._heard: dict[int, Heard] = {}
        self._epoll = select.epoll()

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._heard

    def wait_also_for(self, descriptor: int) -> None:
        """Something else that can be read, by somebody else."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def add(self, heard: Heard) -> int:
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

    def drain(self, descriptor: int) -> tuple[list[Note], bool]:
        """What has come in, and whether something was missed: the kernel says ENOBUFS once."""
        heard, notes, missed = self._heard[descriptor], list[Note](), False
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
