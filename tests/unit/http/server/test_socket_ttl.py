"""The socket's TTL for a response with a hop limit, and the identification of a client by its MAC address."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from tests.waiting import HANG_SECONDS

from openimds.http.messages import Request, Response
from openimds.http.server.limits import ConnectionLimits
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import tcp_listener

ID = b"req-11111111-2222-4333-8444-555555555501"
HEADERS = ((b"X-Openstack-Request-Id", ID),)
IPV4 = (socket.IPPROTO_IP, socket.IP_TTL)
IPV6 = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)


TOKEN = Response(status=200, headers=HEADERS, body=b"token", hop_limit=1)


@dataclass
class FakeGuests:
    """The handler and the MAC resolver of the server. Both record their calls."""

    macs: list[str] = field(default_factory=list)
    sockets: list[Any] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def source_mac(self, connection: Any) -> str:
        self.sockets.append(connection)
        return self.macs.pop(0) if self.macs else ""

    def respond(self, request: Request) -> Response:
        self.requests.append(request)
        if request.method == "PUT":
            return TOKEN
        return replayable(request.mac.encode())

    def hops(self, option: tuple[int, int]) -> int:
        value: int = self.sockets[-1].getsockopt(*option)
        return value


def replayable(body: bytes) -> Response:
    return Response(status=200, headers=HEADERS, body=body, replay=lambda given: (given or ID, body, b"", b""))


@asynccontextmanager
async def served(guests: FakeGuests, host: str = "127.0.0.1", **limits: int) -> AsyncIterator[list[int]]:
    """Serves two listeners and yields their ports."""
    sockets = [tcp_listener(host, 0), tcp_listener(host, 0)]
    ports = [listener.getsockname()[1] for listener in sockets]
    server = HttpServer(guests.respond, connections=ConnectionLimits(**limits))
    await server.start(
        [
            Listener(socket=listener, tag=f"network:{number}", source_mac=guests.source_mac)
            for number, listener in enumerate(sockets)
        ]
    )
    try:
        yield ports
    finally:
        await server.stop(1)


@dataclass
class Guest:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self, method: bytes = b"GET") -> bytes:
        self.writer.write(method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n")
        return await self.read()

    async def read(self) -> bytes:
        async with asyncio.timeout(HANG_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            return await self.reader.readexactly(length)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def connect(host: str, port: int) -> Guest:
    return Guest(*await asyncio.open_connection(host, port))


@pytest.mark.parametrize(
    ("host", "peer", "option"),
    [("127.0.0.1", "127.0.0.1", IPV4), ("::1", "::1", IPV6), ("::", "127.0.0.1", IPV4)],
    ids=["IPv4", "IPv6", "IPv4 on a dual-stack socket"],
)
def test_hop_limit_applies_to_one_response(host: str, peer: str, option: tuple[int, int]) -> None:
    async def run() -> None:
        guests = FakeGuests()
        async with served(guests, host) as ports:
            guest = await connect(peer, ports[0])
            await guest.request()
            normal = guests.hops(option)
            assert normal > 1
            assert await guest.request(b"PUT") == b"token"
            assert guests.hops(option) == 1
            await guest.request()
            assert guests.hops(option) == normal
            await guest.close()

    uvloop.run(run())


def test_pipelined_responses_keep_their_order_and_the_default_ttl_is_restored() -> None:
    async def run() -> None:
        guests = FakeGuests()
        async with served(guests) as ports:
            guest = await connect("127.0.0.1", ports[0])
            await guest.request()
            normal = guests.hops(IPV4)
            rest = b" /x HTTP/1.1\r\nHost: a\r\n\r\n"
            guest.writer.write(b"GET" + rest + b"PUT" + rest + b"GET" + rest)
            assert [await guest.read() for _ in range(3)] == [b"", b"token", b""]
            assert guests.hops(IPV4) == normal
            await guest.close()

    uvloop.run(run())


def test_equal_request_of_another_mac_is_handled_again() -> None:
    async def run() -> None:
        guests = FakeGuests(macs=["fa:16:3e:00:00:01", "fa:16:3e:00:00:02"])
        async with served(guests) as ports:
            first = await connect("127.0.0.1", ports[0])
            assert [await first.request() for _ in range(3)] == [b"fa:16:3e:00:00:01"] * 3
            assert len(guests.requests) == 1  # the cache has answered the others
            second = await connect("127.0.0.1", ports[0])
            assert await second.request() == b"fa:16:3e:00:00:02"
            assert await first.request() == b"fa:16:3e:00:00:01"
            assert len(guests.requests) == 2
            await first.close()
            await second.close()

    uvloop.run(run())


def test_connections_are_counted_by_listener_and_address() -> None:
    async def run() -> None:
        guests = FakeGuests()
        async with served(guests, per_peer=2) as ports:
            accepted = [await connect("127.0.0.1", ports[0]) for _ in range(2)]
            for guest in accepted:
                await guest.request()
            refused = await connect("127.0.0.1", ports[0])
            assert b"503" in await refused.reader.readline()
            neighbour = await connect("127.0.0.1", ports[1])  # another network has the same address
            await neighbour.request()
            for guest in (*accepted, refused, neighbour):
                await guest.close()

    uvloop.run(run())


def test_connections_of_a_guest_are_counted_by_mac() -> None:
    async def run() -> None:
        guests = FakeGuests(macs=["fa:16:3e:00:00:01"] * 3 + ["fa:16:3e:00:00:02"])
        async with served(guests, per_peer=2) as ports:
            accepted = [await connect("127.0.0.1", ports[0]) for _ in range(2)]
            for guest in accepted:
                await guest.request()
            refused = await connect("127.0.0.1", ports[0])
            assert b"503" in await refused.reader.readline()
            neighbour = await connect("127.0.0.1", ports[0])
            assert await neighbour.request() == b"fa:16:3e:00:00:02"
            for guest in (*accepted, refused, neighbour):
                await guest.close()

    uvloop.run(run())


def test_connections_per_network_are_limited_despite_many_macs() -> None:
    async def run() -> None:
        guests = FakeGuests(macs=[f"fa:16:3e:00:00:{number:02x}" for number in range(10)])
        async with served(guests, per_network=3) as ports:
            accepted = [await connect("127.0.0.1", ports[0]) for _ in range(3)]
            for guest in accepted:
                await guest.request()
            refused = await connect("127.0.0.1", ports[0])
            assert b"503" in await refused.reader.readline()
            other = await connect("127.0.0.1", ports[1])
            await other.request()
            for guest in (*accepted, refused, other):
                await guest.close()

    uvloop.run(run())
