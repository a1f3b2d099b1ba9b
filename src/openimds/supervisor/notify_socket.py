"""The supervisor's half of sd_notify(3): what its parts say of themselves, and the sockets that it keeps for them.

Only what a service manager does with FDSTORE=1, FDSTOREREMOVE=1 and FDNAME; the parts' half is kept_sockets.py.
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

MOST_SOCKETS = 8192
"""Of one part: as many names as fit into one environment variable (kept_sockets.py, `WIRE_NAME_CHARACTERS`)."""
_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid of unix(7)'s SCM_CREDENTIALS."""
_MOST_RIGHTS = 253
"""SCM_MAX_FD: descriptors in one message."""
_MESSAGE_BYTES = 4096
_OWN_DESCRIPTORS = 256
"""What the supervisor needs beside the sockets that it keeps."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a process said: `READY=1` is {"READY": "1"}. Whoever gets it closes the descriptors or keeps them."""

    pid: int
    fields: Mapping[str, str]
    descriptors: tuple[int, ...]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


class NotifySocket:
    """At a path: the next supervisor has the same, so that parts which outlive this one can tell it their sockets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        before = os.umask(0o177)  # this user's alone, from the first moment
        try:
            self._channel.bind(str(path))
        except OSError:
            self._channel.close()
            raise
        finally:
            os.umask(before)

    def fileno(self) -> int:
        return self._channel.fileno()

    def messages(self) -> Iterator[Message]:
        """What is there now."""
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MOST_RIGHTS * array.array("i").itemsize)
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
    """The sockets of one part, by name."""

    def __init__(self) -> None:
        self._kept: dict[str, list[int]] = {}
        self._count = 0
        self._is_full_told = False

    def __len__(self) -> int:
        return self._count

    @property
    def names(self) -> tuple[str, ...]:
        """One for each of the descriptors."""
        return tuple(name for name, descriptors in self._kept.items() for _ in descriptors)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(descriptor for descriptors in self._kept.values() for descriptor in descriptors)

    def apply(self, message: Message) -> None:
        """Keep or forget what the message says. A socket that is here already under this name is not kept twice."""
        name = message.fields.get("FDNAME", "stored")
        if message.fields.get("FDSTORE") == "1":
            for descriptor in message.descriptors:
                self._keep(name, descriptor)
            return
        message.close()
        if message.fields.get("FDSTOREREMOVE") == "1":
            self._forget(name)

    def close(self) -> None:
        for name in list(self._kept):
            self._forget(name)

    def _keep(self, name: str, descriptor: int) -> None:
        if any(os.path.sameopenfile(own, descriptor) for own in self._kept.get(name, ())):
            os.close(descriptor)
        elif self._count >= _room() or ":" in name:
            os.close(descriptor)
            if not self._is_full_told:
                log.warning("a part's socket is not kept: there are too many", name=name, kept=self._count)
            self._is_full_told = True
        else:
            self._kept.setdefault(name, []).append(descriptor)
            self._count += 1

    def _forget(self, name: str) -> None:
        for descriptor in self._kept.pop(name, ()):
            os.close(descriptor)
            self._count -= 1


def _room() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # Starting the part takes two more of each for a moment (starting.py).
    return min(MOST_SOCKETS, max(0, limit - _OWN_DESCRIPTORS) // 3)


def _message(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> Message:
    pid, descriptors = 0, array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(content)[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    words = (line.partition("=") for line in data.decode(errors="replace").split("\n"))
    return Message(pid, {name: value for name, _, value in words}, tuple(descriptors))
