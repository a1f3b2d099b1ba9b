"""The service manager's side of sd_notify(3): notifications of the parts, and a file descriptor store for each part.

The store implements FDSTORE=1, FDSTOREREMOVE=1 and FDNAME. The client side is `runtime/fdstore.py`.
"""

from __future__ import annotations

import array
import os
import resource
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

MAX_SOCKETS = 8192
"""The limit per part: their names must fit into one environment string (`runtime/fdstore.py`, WIRE_NAME_CHARACTERS)."""
_CREDENTIALS = struct.Struct("3i")
"""pid, uid and gid of SCM_CREDENTIALS (unix(7))."""
_MAX_RIGHTS = 253
"""SCM_MAX_FD: the maximum number of descriptors in one message."""
_MESSAGE_BYTES = 4096
_OWN_DESCRIPTORS = 256
"""The number of descriptors that the supervisor needs beside the stored sockets."""


@dataclass(frozen=True, slots=True)
class Message:
    """One notification: `READY=1` is {"READY": "1"}. The receiver owns the descriptors and must close or store them."""

    pid: int
    fields: Mapping[str, str]
    descriptors: tuple[int, ...]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


class NotifySocket:
    """The notify socket, bound at a fixed path, where parts that outlive a supervisor reach the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        previous = os.umask(0o177)  # the socket has mode 0600 from its creation on
        try:
            self._channel.bind(str(path))
        except OSError:
            self._channel.close()
            raise
        finally:
            os.umask(previous)

    def fileno(self) -> int:
        return self._channel.fileno()

    def messages(self) -> Iterator[Message]:
        """Reads all pending messages without blocking."""
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MAX_RIGHTS * array.array("i").itemsize)
        while True:
            try:
                data, ancillary, _, _ = self._channel.recvmsg(_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            yield _message(data, ancillary)

    def close(self) -> None:
        self._channel.close()
        self.path.unlink(missing_ok=True)


class FdStoreServer:
    """The stored sockets of one part, by name."""

    def __init__(self) -> None:
        self._stored: dict[str, list[int]] = {}
        self._count = 0
        self._is_full_logged = False

    def __len__(self) -> int:
        return self._count

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each of the `descriptors`, in their order."""
        return tuple(name for name, descriptors in self._stored.items() for _ in descriptors)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(descriptor for descriptors in self._stored.values() for descriptor in descriptors)

    def apply(self, message: Message) -> None:
        """Applies FDSTORE=1 or FDSTOREREMOVE=1. A socket that is stored under the same name already is closed."""
        name = message.fields.get("FDNAME", "stored")
        if message.fields.get("FDSTORE") == "1":
            for descriptor in message.descriptors:
                self._store(name, descriptor)
            return
        message.close()
        if message.fields.get("FDSTOREREMOVE") == "1":
            self._remove(name)

    def close(self) -> None:
        for name in list(self._stored):
            self._remove(name)

    def _store(self, name: str, descriptor: int) -> None:
        if any(os.path.sameopenfile(own, descriptor) for own in self._stored.get(name, ())):
            os.close(descriptor)
        elif self._count >= _capacity() or ":" in name:
            os.close(descriptor)
            if not self._is_full_logged:
                log.warning("file descriptor store full: socket of a part not stored", name=name, stored=self._count)
            self._is_full_logged = True
        else:
            self._stored.setdefault(name, []).append(descriptor)
            self._count += 1

    def _remove(self, name: str) -> None:
        for descriptor in self._stored.pop(name, ()):
            os.close(descriptor)
            self._count -= 1


def _capacity() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # spawn() duplicates each stored descriptor twice while it starts the part.
    return min(MAX_SOCKETS, max(0, limit - _OWN_DESCRIPTORS) // 3)


def _message(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> Message:
    pid, descriptors = 0, array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(content)[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    words = (line.partition("=") for line in data.decode(errors="replace").split("\n"))
    return Message(pid, {name: value for name, _, value in words}, tuple(descriptors))
