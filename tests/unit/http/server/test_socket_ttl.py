"""An answer with a hop limit: the socket's TTL while it is on its way, and before and behind it; who asks, by MAC."""

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
class Guests:
    """What the server is told of its connections, and what it asks."""

    macs: list[str] = field(default_factory=list)
    sockets: list[Any] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def source_mac(self, connection: Any) -> str:
        self.sockets.append(connection)
        return self.macs.pop(0) if self.macs else ""

    def answer(self, request: Request) -> Response:
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
async def served(guests: Guests, host: str = "127.0.0.1", **caps: int) -> AsyncIterator[list[int]]:
    """Two listeners: their ports."""
    sockets = [tcp_listener(host, 0), tcp_listener(host, 0)]
    ports = [one.getsockname()[1] for one in sockets]
    server = HttpServer(guests.answer, connections=ConnectionLimits(**caps))
    await server.start(
        [
            Listener(socket=one, tag=f"network:{place}", source_mac=guests.source_mac)
            for place, one in enumerate(sockets)
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

    async def ask(self, method: bytes = b"GET") -> bytes:
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
    ids=["IPv4", "IPv6", "IPv4 on a socket of both"],
)
def test_one_answer_has_the_limit_and_the_next_has_not(host: str, peer: str, option: tuple[int, int]) -> None:
    async def run() -> None:
        guests = Guests()
        async with served(guests, host) as ports:
            guest = await connect(peer, ports[0])
            await guest.ask()
            normal = guests.hops(option)
            assert normal > 1
            assert await guest.ask(b"PUT") == b"token"
            assert guests.hops(option) == 1
            await guest.ask()
            assert guests.hops(option) == normal
            await guest.close()

    uvloop.run(run())


def test_pipelined_answers_come_in_order_and_the_last_has_the_usual_hops() -> None:
    async def run() -> None:
        guests = Guests()
        async with served(guests) as ports:
            guest = await connect("127.0.0.1", ports[0])
            await guest.ask()
            normal = guests.hops(IPV4)
            one = b" /x HTTP/1.1\r\nHost: a\r\n\r\n"
            guest.writer.write(b"GET" + one + b"PUT" + one + b"GET" + one)
            assert [await guest.read() for _ in range(3)] == [b"", b"token", b""]
            assert guests.hops(IPV4) == normal
            await guest.close()

    uvloop.run(run())


def test_the_same_bytes_of_another_mac_are_asked_anew() -> None:
    async def run() -> None:
        guests = Guests(macs=["fa:16:3e:00:00:01", "fa:16:3e:00:00:02"])
        async with served(guests) as ports:
            first = await connect("127.0.0.1", ports[0])
            assert [await first.ask() for _ in range(3)] == [b"fa:16:3e:00:00:01"] * 3
            assert len(guests.requests) == 1  # the others were repeats
            second = await connect("127.0.0.1", ports[0])
            assert await second.ask() == b"fa:16:3e:00:00:02"
            assert await first.ask() == b"fa:16:3e:00:00:01"
            assert len(guests.requests) == 2
            await first.close()
            await second.close()

    uvloop.run(run())


def test_connections_are_counted_by_listener_and_address() -> None:
    async def run() -> None:
        guests = Guests()
        async with served(guests, per_peer=2) as ports:
            there = [await connect("127.0.0.1", ports[0]) for _ in range(2)]
            for guest in there:
                await guest.ask()
            refused = await connect("127.0.0.1", ports[0])
            assert b"503" in await refused.reader.readline()
            neighbour = await connect("127.0.0.1", ports[1])  # the same address, on another network
            await neighbour.ask()
            for guest in (*there, refused, neighbour):
                await guest.close()

    uvloop.run(run())


def test_a_guest_with_many_addresses_is_counted_by_its_mac() -> None:
    async def run() -> None:
        guests = Guests(macs=["fa:16:3e:00:00:01"] * 3 + ["fa:16:3e:00:00:02"])
        async with served(guests, per_peer=2) as ports:
            there = [await connect("127.0.0.1", ports[0]) for _ in range(2)]
            for guest in there:
                await guest.ask()
            refused = await connect("127.0.0.1", ports[0])
            assert b"503" in await refused.reader.readline()
            neighbour = await connect("127.0.0.1", ports[0])
            assert await neighbour.ask() == b"fa:16:3e:00:00:02"
            for guest in (*there, refused, neighbour):
                await guest.close()

    uvloop.run(run())


def test_a_network_whose_guests_have_as_many_macs_as_they_like_leaves_room_for_others() -> None:
    async def run() -> None:
        guests = Guests(macs=[f"fa:16:3e:00:00:{number:02x}" for number in range(10)])
        async with served(guests, per_network=3) as ports:
            there = [await connect("127.0.0.1", ports[0]) for _ in range(3)]
            for guest in there:
                await guest.ask()
            refused = await connect("127.0.0.1", ports[0])
            assert b"503" in await refused.reader.readline()
            other = await connect("127.0.0.1", ports[1])
            await other.ask()
            for guest in (*there, refused, other):
                await guest.close()

    uvloop.run(run())
