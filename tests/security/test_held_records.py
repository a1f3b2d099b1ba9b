"""haproxy mode with held records: requests of a HAProxy are replayed, and identity headers of a client have no effect."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.security.instances import NETWORK
from tests.security.stage import start_haproxy
from tests.unit.agents.metadata.direct_cloud import MAC_A, A, B, port
from tests.unit.agents.metadata.test_handler_held import stage

from openimds.http.messages import Request, Response
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import UnixAccess, unix_listener

HOSTNAME = "/latest/meta-data/hostname"
FORGED = {"X-Instance-ID": B, "x_instance_id": B, "X-Forwarded-For": "10.0.0.9", "X-Neutron-Network-ID": "other"}


async def test_haproxys_requests_are_handled_once_and_replayed(tmp_path: Path) -> None:
    async with stage() as there:
        there.mirror.publish(replace(port(A, MAC_A, "127.0.0.1"), network_id=NETWORK))
        handled: list[Request] = []

        def handle(request: Request) -> Response | Coroutine[Any, Any, Response]:
            handled.append(request)
            return there.agent.handle(request)

        server = HttpServer(handle)
        socket = unix_listener(tmp_path / "agent", UnixAccess(mode=0o666))
        await server.start([Listener(socket=socket, tag="metadata_proxy")])
        address = free_port()
        proxy = await asyncio.to_thread(start_haproxy, tmp_path, tmp_path / "agent", address)
        try:
            bodies = [await asyncio.to_thread(_get, address, {}) for _ in range(5)]
            forged = [await asyncio.to_thread(_get, address, FORGED) for _ in range(2)]
        finally:
            proxy.terminate()
            await asyncio.to_thread(proxy.wait)
            await server.stop(0)
        assert {*bodies, *forged} == {b"vm-a.novalocal"}
        assert len(handled) == 2  # one request of each kind
        assert there.api.requests == []


def _get(address: int, headers: dict[str, str]) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{address}{HOSTNAME}", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        body: bytes = response.read()
        return body
