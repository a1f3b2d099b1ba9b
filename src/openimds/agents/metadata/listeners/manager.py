"""Opens and closes listening sockets in namespaces, so that they match the listener files.

The files and namespaces are read when one of the two folders changed, which is checked every CHECK_SECONDS. A full pass
runs every FULL_PASS_SECONDS and retries what failed.
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

CHECK_SECONDS = 0.01
FULL_PASS_SECONDS = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """One desired listening socket."""

    file: str
    """The name of the file: the ID of the network or router."""
    tag: str
    namespace: str
    inode: int
    address: ListenAddress

    @property
    def kept_name(self) -> str:
        """The name at the service manager: `direct.<id>.80.fe80__a9fe_a9fe`. A colon is not allowed."""
        return f"direct.{self.file}.{self.address.port}.{self.address.host.replace(':', '_')}"


class Opened(Protocol):
    @property
    def socket(self) -> socket.socket | None: ...
    @property
    def failure(self) -> str: ...


class Sockets(Protocol):
    """The sockets of the kernel. Called on a thread."""

    def open(self, specs: Sequence[ListenerSpec]) -> Sequence[Opened]:
        """Returns a listening socket or a failure for each spec, in order."""

    def fits(self, kept: socket.socket, spec: ListenerSpec) -> bool:
        """Returns whether an inherited socket is bound as the spec requires."""

    def inode(self, namespace: str) -> int | None:
        """Returns the inode of a namespace. None if the namespace does not exist."""


class KeptSockets(Protocol):
    """The sockets that the service manager keeps for the next process."""

    def take(self, name: str) -> socket.socket | None: ...
    def put(self, name: str, kept: socket.socket) -> None: ...
    def forget(self, name: str) -> None: ...


class HttpServer(Protocol):
    """The HTTP server of the agent."""

    async def open(self, tag: str, listening: socket.socket) -> None: ...
    async def close(self, listening: socket.socket) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedPaths:
    """The two watched folders."""

    wanted: Path
    """The folder of the listener files."""
    namespaces: Path
    """`/run/netns`."""


class ListenerManager:
    """Belongs to the event loop. `reconcile` is called once before `run`."""

    def __init__(self, places: WatchedPaths, server: HttpServer, sockets: Sockets, kept: KeptSockets) -> None:
        self._folder = ListenerFiles(places.wanted)
        self._namespaces = NamespaceDirWatch(places.namespaces)
        self._server = server
        self._sockets = sockets
        self._kept = kept
        self._inodes: dict[str, int | None] = {}
        """The inodes of namespaces at the last pass, by name."""
        self._applied: dict[str, DesiredListeners] = {}
        """The desired listeners of the last pass by file. The same object means no change."""
        self._open: dict[str, dict[ListenerSpec, socket.socket]] = {}
        """The open sockets by file and spec."""
        self._failures: dict[ListenerSpec, str] = {}
        self._logged: set[str] = set()

    @property
    def listeners(self) -> int:
        """The number of open listeners. Thread-safe, like `wanted` and `failures`."""
        return sum(len(specs) for specs in list(self._open.values()))

    @property
    def wanted(self) -> int:
        """The number of desired listeners at the last pass."""
        return sum(len(wanted.addresses) for wanted in self._applied.values())

    @property
    def failures(self) -> Mapping[str, str]:
        """The reasons of failures by listener tag, for the heartbeat."""
        found: dict[str, dict[str, None]] = {}
        for spec, failure in list(self._failures.items()):
            found.setdefault(spec.tag, {})[failure] = None
        return {tag: "; ".join(failures) for tag, failures in found.items()}

    async def run(self) -> None:
        """Runs until it is cancelled."""
        full_at = time.monotonic() + FULL_PASS_SECONDS
        while True:
            is_full = time.monotonic() >= full_at
            if is_full or self._has_changed():
                await self._reconcile_safely(is_full=is_full)
            if is_full:
                full_at = time.monotonic() + FULL_PASS_SECONDS
            await asyncio.sleep(CHECK_SECONDS)

    async def reconcile(self, *, is_full: bool = True) -> None:
        """Opens missing listeners and closes obsolete ones. Failures are logged and do not affect other listeners.

        If `is_full` is False, namespaces with the same mount point and files with the same inode count as unchanged, and
        failures are not retried.
        """
        wanted = await asyncio.to_thread(self._wanted, is_full=is_full)
        missing, gone = self._differences(wanted, [spec.file for spec in self._failures] if is_full else ())
        taken = await asyncio.to_thread(self._taken, missing)
        opened = await asyncio.to_thread(self._opened, [spec for spec in missing if spec not in taken])
        for spec, listening in (taken | opened).items():
            await self._server.open(spec.tag, listening)
            self._open.setdefault(spec.file, {})[spec] = listening
        await self._close(gone)
        # After the close: a replaced listener has the same name at the service manager.
        await asyncio.to_thread(self._keep, opened)
        self._applied = wanted
        if taken or opened or gone:
            log.info(
                "namespace listeners updated",
                kept=len(taken), opened=len(opened), closed=len(gone), listeners=self.listeners,
            )  # fmt: skip

    def _differences(
        self, wanted: Mapping[str, DesiredListeners], again: Iterable[str]
    ) -> tuple[list[ListenerSpec], list[ListenerSpec]]:
        """Returns the listeners to open, grouped by namespace, and the listeners to close."""
        new = [file for file, value in wanted.items() if self._applied.get(file) is not value]
        looked_at = dict.fromkeys([*new, *(file for file in again if file in wanted)])
        missing, gone = [], [spec for file in self._open if file not in wanted for spec in self._open[file]]
        for file in looked_at:
            specs, there = dict.fromkeys(_specs(file, wanted[file])), self._open.get(file, {})
            missing += [spec for spec in specs if spec not in there]
            gone += [spec for spec in there if spec not in specs]
        self._failures = {
            spec: failure
            for spec, failure in self._failures.items()
            if spec.file in wanted and spec.file not in looked_at
        }
        return missing, gone

    def _has_changed(self) -> bool:
        return self._folder.sign.has_changed() or self._namespaces.sign.has_changed()

    async def _reconcile_safely(self, *, is_full: bool) -> None:
        try:
            await self.reconcile(is_full=is_full)
        except Exception:
            log.exception("namespace listener update failed")

    # On a thread --------------------------------------------------------------------------------------------------

    def _wanted(self, *, is_full: bool) -> dict[str, DesiredListeners]:
        """Returns the desired listeners of existing namespaces by file."""
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
        """Returns the inherited sockets of missing listeners."""
        found = {}
        for spec in missing:
            kept = self._kept.take(spec.kept_name)
            if kept is None:
                continue
            if self._sockets.fits(kept, spec):
                found[spec] = kept
            else:
                kept.close()
                self._kept.forget(spec.kept_name)
        return found

    def _opened(self, missing: Sequence[ListenerSpec]) -> dict[ListenerSpec, socket.socket]:
        found: dict[ListenerSpec, socket.socket] = {}
        failures: dict[ListenerSpec, str] = {}
        for spec, opened in zip(missing, self._sockets.open(missing) if missing else (), strict=True):
            if opened.socket is not None:
                found[spec] = opened.socket
            else:
                failures[spec] = opened.failure
        self._note(failures)
        return found

    def _keep(self, opened: Mapping[ListenerSpec, socket.socket]) -> None:
        for spec, listening in opened.items():
            self._kept.put(spec.kept_name, listening)

    def _forget(self, gone: Sequence[ListenerSpec]) -> None:
        for spec in gone:
            self._kept.forget(spec.kept_name)

    def _note(self, failures: Mapping[ListenerSpec, str]) -> None:
        """Logs each new reason once, because one reason (no IPv6) can concern many listeners."""
        self._failures |= failures
        now = {*self._failures.values()}
        for failure in sorted(now - self._logged):
            log.warning("namespace listener failed", reason=failure)
        self._logged = now

    async def _close(self, gone: Sequence[ListenerSpec]) -> None:
        for spec in gone:
            await self._server.close(self._open[spec.file].pop(spec))
            if not self._open[spec.file]:
                del self._open[spec.file]
        await asyncio.to_thread(self._forget, gone)


def _specs(file: str, wanted: DesiredListeners) -> Iterable[ListenerSpec]:
    for address in wanted.addresses:
        yield ListenerSpec(file, wanted.tag, wanted.namespace, wanted.namespace_inode, address)
