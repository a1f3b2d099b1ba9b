"""The listening part of the metadata agent in this process.

Its responses contain the listener, the source address and the MAC address of the request.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from tests.waiting import HANG_SECONDS

from openimds.http.messages import Request, Response
from openimds.http.server.limits import ConnectionLimits, Limits
from openimds.http.server.server import HttpServer
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandles
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.process.daemons import run
from openimds.netconfig.listener_file import (
    DesiredListeners,
    ListenAddress,
    Scope,
    listeners_file,
    render_listeners,
    with_indexes,
)
from openimds.programs.metadata_agent.direct_listeners import DirectListeners, start_direct

V4 = ListenAddress("169.254.169.254", 80)
V6 = ListenAddress("fe80::a9fe:a9fe", 80, "eth0")


@dataclass
class KeptHere:
    """A service manager's file descriptor store, which outlives a server of these tests."""

    store: dict[str, socket.socket] = field(default_factory=dict)
    given: dict[str, socket.socket] = field(default_factory=dict)

    def take(self, name: str) -> socket.socket | None:
        return self.given.pop(name, None)

    def put(self, name: str, kept: socket.socket) -> None:
        self.store[name] = kept.dup()

    def forget(self, name: str) -> None:
        if name in self.store:
            self.store.pop(name).close()

    def restart(self) -> None:
        """Hands the stored sockets to the next process."""
        self.given = {name: kept.dup() for name, kept in self.store.items()}

    def close(self) -> None:
        for kept in (*self.store.values(), *self.given.values()):
            kept.close()


@dataclass
class Agent:
    """A server on a thread of its own."""

    direct: DirectListeners
    loop: asyncio.AbstractEventLoop
    server: HttpServer

    def call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(HANG_SECONDS)


def answer(request: Request) -> Response:
    return Response(status=200, body=f"{request.listener} {request.peer} {request.mac}".encode())


@contextmanager
def listening(state_path: Path, kept: KeptHere) -> Iterator[Agent]:
    started: list[Agent] = []
    ready, stop = threading.Event(), threading.Event()

    async def main() -> None:
        server = HttpServer(answer, connections=ConnectionLimits(per_peer=10_000))
        await server.start([])
        direct = await start_direct(state_path, server, kept, Limits())
        started.append(Agent(direct, asyncio.get_running_loop(), server))
        ready.set()
        await asyncio.to_thread(stop.wait)
        await direct.stop()
        await server.stop(5)

    thread = threading.Thread(target=lambda: uvloop.run(main()), name="agent")
    thread.start()
    try:
        assert ready.wait(HANG_SECONDS), "the listening part did not start"
        yield started[0]
    finally:
        stop.set()
        thread.join(HANG_SECONDS)


def want(
    state_path: Path, namespace: str, *addresses: ListenAddress, scope: Scope = Scope.NETWORK, name: str = ""
) -> Path:
    """Writes the listener file, as the agents do."""
    handles = NamespaceHandles()
    inside = NamespaceProbe(handles).snapshot(namespace, addresses)
    handles.close(namespace)
    desired = DesiredListeners(
        scope=scope,
        scope_id=name or namespace,
        namespace=namespace,
        namespace_inode=inside.inode,
        addresses=with_indexes(addresses, inside.device_indexes),
    )
    file = listeners_file(name or namespace, state_path)
    file.parent.mkdir(exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(render_listeners(desired))
    temporary.replace(file)
    return file


def ask(namespace: str, host: str, port: int = 80) -> str:
    """Returns the response to a guest in this namespace. Raises OSError."""

    def talk() -> str:
        with socket.create_connection((host, port), HANG_SECONDS) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            whole = b"".join(iter(lambda: raw.recv(65536), b""))
        head, _, body = whole.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), whole
        return body.decode()

    return netns.run_in(namespace, talk)


def is_open(namespace: str, host: str = V4.host, port: int = 80) -> bool:
    try:
        ask(namespace, host, port)
    except OSError:
        return False
    return True


def wire(namespace: str, guest: str) -> str:
    """Adds the metadata service's addresses to `eth0` of `namespace`, and a guest at its other end. Returns the guest's
    MAC.
    """
    run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", guest], namespace=namespace)
    for name, addresses in ((namespace, ("169.254.169.254/16", "fe80::a9fe:a9fe/64")), (guest, ("169.254.7.7/16",))):
        run(["ip", "link", "set", "lo", "up"], namespace=name)
        run(["ip", "link", "set", "eth0", "up"], namespace=name)
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            run(["ip", "addr", "add", address, "dev", "eth0", *nodad], namespace=name)
    mac: str = json.loads(run(["ip", "-j", "link", "show", "eth0"], namespace=guest))[0]["address"]
    return mac
