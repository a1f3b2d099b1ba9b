"""The listeners of `metadata_proxy = direct`: connects the listener files with the kernel, the HTTP server and the service
manager that keeps the sockets.

The metadata agent has no option for it. The listener files of the DHCP and L3 agents decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from openimds.agents.metadata.listeners.manager import KeptSockets, ListenerManager, ListenerSpec, WatchedPaths
from openimds.guest_identity.addresses import client_key, source_mac
from openimds.http.server.limits import Limits
from openimds.http.server.server import HttpServer, Listener
from openimds.linux.netns import netns
from openimds.linux.netns.sockets import Connected, NamespaceRef, OpenResult, is_listener_for, open_listeners, saved_syn
from openimds.netconfig.listener_file import FOLDER


class DirectListeners:
    """The listeners of direct mode, and the task that updates them."""

    def __init__(self, listening: ListenerManager) -> None:
        self.listening = listening
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when all desired listeners are open or failed."""
        await self.listening.reconcile()
        self._task = asyncio.get_running_loop().create_task(self.listening.run())

    async def stop(self) -> None:
        """Stops updating the listeners. The server closes them."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


async def start_direct(state_path: Path, server: HttpServer, kept: KeptSockets, limits: Limits) -> DirectListeners:
    """`server` must be started. The caller then closes unused inherited sockets by `kept.close_untaken()`."""
    places = WatchedPaths(wanted=state_path / FOLDER, namespaces=netns.NETNS_DIR)
    direct = DirectListeners(ListenerManager(places, _Server(server, limits), _Sockets(), kept))
    await direct.start()
    return direct


class _Server:
    def __init__(self, server: HttpServer, limits: Limits) -> None:
        self._server = server
        self._limits = limits

    async def open(self, tag: str, listening: socket.socket) -> None:
        guest_of = partial(client_key, tag)
        await self._server.open(
            Listener(socket=listening, tag=tag, limits=self._limits, source_mac=_mac_of, guest_of=guest_of)
        )

    async def close(self, listening: socket.socket) -> None:
        await self._server.close(listening)


def _mac_of(connected: Connected) -> str:
    return source_mac(saved_syn(connected))


class _Sockets:
    def open(self, specs: Sequence[ListenerSpec]) -> Sequence[OpenResult]:
        return open_listeners([(NamespaceRef(spec.namespace, spec.inode), spec.address) for spec in specs])

    def fits(self, kept: socket.socket, spec: ListenerSpec) -> bool:
        return is_listener_for(kept, NamespaceRef(spec.namespace, spec.inode), spec.address)

    def inode(self, namespace: str) -> int | None:
        found = netns.identity(namespace)
        return found[1] if found else None
