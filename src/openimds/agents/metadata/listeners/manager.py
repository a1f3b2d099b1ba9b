"""Keeps a listener open wherever the folder says so, and none elsewhere.

What is wanted (files) and what namespaces there are is looked at when one of the two folders changed, which is noticed
within LOOK_SECONDS, and every FULL_LOOK_SECONDS in any case: what failed is tried again then.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from openimds.agents.metadata.listeners.files import ListenerFiles, NamespaceDirWatch
from openimds.netconfig.listener_file import DesiredListeners, ListenAddress

LOOK_SECONDS = 0.01
FULL_LOOK_SECONDS = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """One listening socket, as it is wanted. Equal doors are the same door."""

    file: str
    """Whose namespace it is in: the network's or the router's id."""
    tag: str
    namespace: str
    inode: int
    address: ListenAddress

    @property
    def kept_name(self) -> str:
        """As the service manager knows it: `direct.<id>.80.fe80__a9fe_a9fe`; it allows no colon."""
        return f"direct.{self.file}.{self.address.port}.{self.address.host.replace(':', '_')}"


class Opened(Protocol):
    @property
    def socket(self) -> socket.socket | None: ...
    @property
    def failure(self) -> str: ...


class Sockets(Protocol):
    """The kernel's. Called on a thread."""

    def open(self, doors: Sequence[ListenerSpec]) -> Sequence[Opened]:
        """Listening sockets, in order."""

    def fits(self, kept: socket.socket, door: ListenerSpec) -> bool:
        """Whether a socket that was kept is this door's."""

    def inode(self, namespace: str) -> int | None:
        """None: there is no such namespace."""


class KeptSockets(Protocol):
    """The service manager's store of sockets, which outlive this process."""

    def take(self, name: str) -> socket.socket | None: ...
    def put(self, name: str, kept: socket.socket) -> None: ...
    def forget(self, name: str) -> None: ...


class Server(Protocol):
    """The HTTP server."""

    async def open(self, tag: str, listening: socket.socket) -> None: ...
    async def close(self, listening: socket.socket) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedPaths:
    """What is looked at."""

    wanted: Path
    """The folder of files."""
    namespaces: Path
    """/run/netns"""


class ListenerManager:
    """Belongs to the event loop. `look` once, then `run`."""

    def __init__(self, places: WatchedPaths, server: Server, sockets: Sockets, kept: KeptSockets) -> None:
        self._folder = ListenerFiles(places.wanted)
        self._namespaces = NamespaceDirWatch(places.namespaces)
        self._server = server
        self._sockets = sockets
        self._kept = kept
        self._inodes: dict[str, int | None] = {}
        """Of namespaces, as they were when they were looked at last."""
        self._heeded: dict[str, DesiredListeners] = {}
        """By file: what `_open` was made of. The same object: nothing is new."""
        self._open: dict[str, dict[ListenerSpec, socket.socket]] = {}
        """By file."""
        self._failures: dict[ListenerSpec, str] = {}
        self._said: set[str] = set()

    @property
    def listeners(self) -> int:
        """How many there are. Any thread may ask, as for the next two."""
        return sum(len(doors) for doors in list(self._open.values()))

    @property
    def wanted(self) -> int:
        """How many there should be, as the last look saw it."""
        return sum(len(wanted.addresses) for wanted in self._heeded.values())

    @property
    def failures(self) -> Mapping[str, str]:
        """By `network:<id>` or `router:<id>`, in words. For the heartbeat."""
        found: dict[str, dict[str, None]] = {}
        for door, failure in list(self._failures.items()):
            found.setdefault(door.tag, {})[failure] = None
        return {tag: "; ".join(failures) for tag, failures in found.items()}

    async def run(self) -> None:
        """Until it is cancelled."""
        full_at = time.monotonic() + FULL_LOOK_SECONDS
        while True:
            is_full = time.monotonic() >= full_at
            if is_full or self._has_changed():
                await self._look_safely(is_full=is_full)
            if is_full:
                full_at = time.monotonic() + FULL_LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, *, is_full: bool = True) -> None:
        """Make what is open what is wanted. What cannot be had is said, and the rest is there. A look that is not full
        takes a namespace for what it was if its mount point is the same, a file if it is the same one, and does not try
        again what failed.
        """
        wanted = await asyncio.to_thread(self._wanted, is_full=is_full)
        missing, gone = self._differences(wanted, [door.file for door in self._failures] if is_full else ())
        taken = await asyncio.to_thread(self._taken, missing)
        opened = await asyncio.to_thread(self._opened, [door for door in missing if door not in taken])
        for door, listening in (taken | opened).items():
            await self._server.open(door.tag, listening)
            self._open.setdefault(door.file, {})[door] = listening
        await self._close(gone)
        # Last: a door that came in the place of another has the other's name there.
        await asyncio.to_thread(self._keep, opened)
        self._heeded = wanted
        if taken or opened or gone:
            log.info(
                "listens in namespaces",
                kept=len(taken), opened=len(opened), closed=len(gone), listeners=self.listeners,
            )  # fmt: skip

    def _differences(
        self, wanted: Mapping[str, DesiredListeners], again: Iterable[str]
    ) -> tuple[list[ListenerSpec], list[ListenerSpec]]:
        """The doors to open, those of one namespace together, and the doors to close."""
        new = [file for file, value in wanted.items() if self._heeded.get(file) is not value]
        looked_at = dict.fromkeys([*new, *(file for file in again if file in wanted)])
        missing, gone = [], [door for file in self._open if file not in wanted for door in self._open[file]]
        for file in looked_at:
            doors, there = dict.fromkeys(_doors(file, wanted[file])), self._open.get(file, {})
            missing += [door for door in doors if door not in there]
            gone += [door for door in there if door not in doors]
        self._failures = {
            door: failure
            for door, failure in self._failures.items()
            if door.file in wanted and door.file not in looked_at
        }
        return missing, gone

    def _has_changed(self) -> bool:
        return self._folder.sign.has_changed() or self._namespaces.sign.has_changed()

    async def _look_safely(self, *, is_full: bool) -> None:
        try:
            await self.look(is_full=is_full)
        except Exception:
            log.exception("what is listened on could not be brought up to date; will be tried again")

    # On a thread --------------------------------------------------------------------------------------------------

    def _wanted(self, *, is_full: bool) -> dict[str, DesiredListeners]:
        """By file. What is wanted in a namespace that is no more is not."""
        if is_full or self._namespaces.sign.has_changed():
            for name in self._namespaces.read():
                self._inodes.pop(name, None)
        if is_full:
            self._inodes = {}
        return {
            file: wanted
            for file, wanted in self._folder.read(is_full=is_full).items()
            if self._inode(wanted.namespace) == wanted.namespace_inode
        }

    def _inode(self, namespace: str) -> int | None:
        if self._inodes.get(namespace) is None:
            self._inodes[namespace] = self._sockets.inode(namespace)
        return self._inodes[namespace]

    def _taken(self, missing: Sequence[ListenerSpec]) -> dict[ListenerSpec, socket.socket]:
        """From the process before this one."""
        found = {}
        for door in missing:
            kept = self._kept.take(door.kept_name)
            if kept is None:
                continue
            if self._sockets.fits(kept, door):
                found[door] = kept
            else:
                kept.close()
                self._kept.forget(door.kept_name)
        return found

    def _opened(self, missing: Sequence[ListenerSpec]) -> dict[ListenerSpec, socket.socket]:
        found: dict[ListenerSpec, socket.socket] = {}
        failures: dict[ListenerSpec, str] = {}
        for door, opened in zip(missing, self._sockets.open(missing) if missing else (), strict=True):
            if opened.socket is not None:
                found[door] = opened.socket
            else:
                failures[door] = opened.failure
        self._note(failures)
        return found

    def _keep(self, opened: Mapping[ListenerSpec, socket.socket]) -> None:
        for door, listening in opened.items():
            self._kept.put(door.kept_name, listening)

    def _forget(self, gone: Sequence[ListenerSpec]) -> None:
        for door in gone:
            self._kept.forget(door.kept_name)

    def _note(self, failures: Mapping[ListenerSpec, str]) -> None:
        """The same sentence about many (no IPv6) is said once."""
        self._failures |= failures
        now = {*self._failures.values()}
        for failure in sorted(now - self._said):
            log.warning("cannot listen; will be tried again", reason=failure)
        self._said = now

    async def _close(self, gone: Sequence[ListenerSpec]) -> None:
        for door in gone:
            await self._server.close(self._open[door.file].pop(door))
            if not self._open[door.file]:
                del self._open[door.file]
        await asyncio.to_thread(self._forget, gone)


def _doors(file: str, wanted: DesiredListeners) -> Iterable[ListenerSpec]:
    for address in wanted.addresses:
        yield ListenerSpec(file, wanted.tag, wanted.namespace, wanted.namespace_inode, address)
