"""A server that stops while another server takes over its listening socket. No connection is refused and no request is lost."""

from __future__ import annotations

import asyncio
import socket

import uvloop
from tests.waiting import HANG_SECONDS, until_async

from openimds.http.messages import Request, Response
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import tcp_listener

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def serve(name: str, listener: socket.socket) -> HttpServer:
    def respond(_request: Request) -> Response:
        return Response(status=200, body=name.encode())

    server = HttpServer(respond)
    await server.start([Listener(socket=listener)])
    return server


async def until_draining(server: HttpServer) -> None:
    """Waits until the server accepts no further connections."""
    await until_async(lambda: server.draining)


def test_idle_connection_is_served_once_more() -> None:
    async def main() -> None:
        listener = tcp_listener("127.0.0.1", 0)
        address = listener.getsockname()
        server = await serve("first", listener)
        used, fresh = [await asyncio.open_connection(*address) for _ in range(2)]
        used[1].write(GET)
        async with asyncio.timeout(HANG_SECONDS):
            await used[0].readuntil(b"first")
        stopping = asyncio.create_task(server.stop(HANG_SECONDS, idle_seconds=HANG_SECONDS))
        await until_draining(server)
        async with asyncio.timeout(HANG_SECONDS):
            for reader, writer in (used, fresh):
                writer.write(GET)
                response = await reader.read()
                assert response.startswith(b"HTTP/1.1 200 OK")
                assert b"Connection: close" in response
                writer.close()
            await stopping

    uvloop.run(main())


def test_silent_connection_is_closed_after_its_timeout() -> None:
    async def main() -> None:
        listener = tcp_listener("127.0.0.1", 0)
        server = await serve("first", listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        await until_async(lambda: server.connection_count == 1)
        stopping = asyncio.create_task(server.stop(HANG_SECONDS, idle_seconds=0.1))
        async with asyncio.timeout(HANG_SECONDS):
            assert await reader.read() == b""
            await stopping
        writer.close()

    uvloop.run(main())


def test_connection_between_two_servers_waits_in_the_queue() -> None:
    async def main() -> None:
        listener = tcp_listener("127.0.0.1", 0)
        address = listener.getsockname()
        duplicate = listener.dup()
        first = await serve("first", listener)
        before = [await asyncio.open_connection(*address) for _ in range(20)]
        await first.stop(HANG_SECONDS, idle_seconds=0.01)
        between = [await asyncio.open_connection(*address) for _ in range(20)]
        for _, writer in between:
            writer.write(GET)
        second = await serve("second", duplicate)
        async with asyncio.timeout(HANG_SECONDS):
            for reader, writer in between:
                assert (await reader.readuntil(b"second")).startswith(b"HTTP/1.1 200 OK")
                writer.close()
            for reader, writer in before:
                assert await reader.read() == b""
                writer.close()
        await second.stop(HANG_SECONDS)

    uvloop.run(main())


def test_connection_accepted_before_the_stop_is_served() -> None:
    async def main() -> None:
        listener = tcp_listener("127.0.0.1", 0)
        address = listener.getsockname()
        duplicate = listener.dup()
        first = await serve("first", listener)
        clients = [socket.create_connection(address) for _ in range(50)]
        for client in clients:
            client.settimeout(HANG_SECONDS)
            client.sendall(GET)
        await asyncio.sleep(0)  # the loop accepts some of them
        await first.stop(HANG_SECONDS, idle_seconds=HANG_SECONDS)
        second = await serve("second", duplicate)
        for client in clients:
            response = await asyncio.to_thread(client.recv, 4096)
            assert response.startswith(b"HTTP/1.1 200 OK")
            client.close()
        await second.stop(HANG_SECONDS, idle_seconds=0.01)

    uvloop.run(main())
