"""The HTTP server on real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from tests.waiting import HANG_SECONDS, until_async

from openimds.http.messages import Handler, Request, Response
from openimds.http.server.limits import ConnectionLimits, Limits, Timeouts
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import UnixAccess, tcp_listener, unix_listener

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


def echo(request: Request) -> Response:
    text = f"{request.method} {request.target.decode()} {len(request.body)} {request.listener}"
    return Response(status=200, body=text.encode())


def slowly(seconds: float) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        await asyncio.sleep(seconds)
        return echo(request)

    return respond


class Gated:
    """A handler that waits for its gate before it responds."""

    def __init__(self) -> None:
        self.began, self.gate = asyncio.Event(), asyncio.Event()

    async def respond(self, request: Request) -> Response:
        self.began.set()
        await self.gate.wait()
        return echo(request)


@asynccontextmanager
async def served(
    handler: Handler,
    *,
    timeouts: Timeouts | None = None,
    connections: ConnectionLimits | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[tuple[HttpServer, int]]:
    listener = tcp_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = HttpServer(handler, timeouts=timeouts, connections=connections)
    await server.start([Listener(socket=listener, tag="t", limits=limits or Limits())])
    try:
        yield server, port
    finally:
        await server.stop(1)


async def exchange(port: int, data: bytes, *, seconds: float = HANG_SECONDS) -> bytes:
    """Sends the data and reads until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(seconds):
        response = await reader.read()
    writer.close()
    await writer.wait_closed()
    return response


async def settles(server: HttpServer, connections: int) -> None:
    await until_async(lambda: server.connection_count == connections)


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    async with asyncio.timeout(HANG_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
        return int(lines[0].split()[1]), await reader.readexactly(length)


def test_responses_of_slow_handlers_keep_the_order_of_pipelined_requests():
    async def main() -> None:
        async with served(slowly(0.02)) as (_, port):
            data = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(5))
            response = await exchange(port, data + b"GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            offsets = [response.index(b"GET /%d" % n) for n in range(5)] + [response.index(b"GET /end")]
            assert offsets == sorted(offsets)
            assert response.count(b"HTTP/1.1 200 OK") == 6

    uvloop.run(main())


def test_connection_is_reused_after_expect_continue():
    async def main() -> None:
        async with served(echo) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET)
            assert await read_response(reader) == (200, b"GET /x 0 t")
            writer.write(b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            assert await read_response(reader) == (200, b"POST /p 3 t")
            writer.close()
            await writer.wait_closed()

    uvloop.run(main())


def test_error_response_is_readable_while_the_client_still_sends():
    async def main() -> None:
        async with served(echo, limits=Limits(body_bytes=10)) as (_, port):
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
            response = await exchange(port, head + b"x" * 1_000_000)
            assert response.startswith(b"HTTP/1.1 413 ")
            assert b"Connection: close" in response

    uvloop.run(main())


def test_malformed_request_closes_the_connection_after_valid_ones():
    async def main() -> None:
        async with served(echo) as (_, port):
            response = await exchange(port, GET + b"GET / HTTP/1.1\nHost: a\n\n" + GET)
            assert response.count(b"HTTP/1.1 200") == 1
            assert response.count(b"HTTP/1.1 400") == 1

    uvloop.run(main())


def test_handler_exception_is_a_500_response_without_details():
    def fail(_request: Request) -> Response:
        raise RuntimeError("the secret inside")

    async def fail_later(_request: Request) -> Response:
        await asyncio.sleep(0)
        raise RuntimeError("the secret inside")

    def unwritable(_request: Request) -> Response:
        return Response(status=200, headers=((b"X", b"a\r\nb"),))

    async def main() -> None:
        for handler in (fail, fail_later, unwritable):
            async with served(handler) as (_, port):
                response = await exchange(port, b"GET / HTTP/1.0\r\n\r\n")
                assert response.startswith(b"HTTP/1.1 500 ")
                assert b"secret" not in response

    uvloop.run(main())


def test_slow_head_and_body_get_408_and_an_idle_connection_gets_no_response():
    async def main() -> None:
        timeouts = Timeouts(head=0.2, body=0.2, idle=0.2, linger=0.2)
        async with served(echo, timeouts=timeouts) as (_, port):
            assert (await exchange(port, b"GET / HT")).startswith(b"HTTP/1.1 408 ")
            body = await exchange(port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
            assert body.startswith(b"HTTP/1.1 408 ")
            assert await exchange(port, b"") == b""

    uvloop.run(main())


def test_slow_bytes_do_not_extend_the_timeout_of_the_head():
    async def main() -> None:
        async with served(echo, timeouts=Timeouts(head=0.5, linger=0.2)) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reading = asyncio.ensure_future(reader.read())
            async with asyncio.timeout(HANG_SECONDS):
                writer.write(b"GET /")
                while not reading.done():
                    writer.write(b"a")
                    await asyncio.sleep(0.05)
            assert (await reading).startswith(b"HTTP/1.1 408 ")
            writer.close()

    uvloop.run(main())


def test_handler_timeout_is_a_503_response():
    async def main() -> None:
        async with served(slowly(30), timeouts=Timeouts(answer=0.2)) as (_, port):
            response = await exchange(port, b"GET / HTTP/1.0\r\n\r\n")
            assert response.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in response

    uvloop.run(main())


def test_connection_over_the_limit_gets_503_and_others_are_served():
    async def main() -> None:
        async with served(echo, connections=ConnectionLimits(per_peer=2)) as (server, port):
            accepted = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await settles(server, 2)
            assert (await exchange(port, b"")).startswith(b"HTTP/1.1 503 ")
            accepted[0][1].write(GET)
            assert (await read_response(accepted[0][0]))[0] == 200
            for _, writer in accepted:
                writer.close()
                await writer.wait_closed()
            await settles(server, 0)
            assert (await exchange(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    uvloop.run(main())


def test_half_closed_connection_gets_its_responses():
    async def main() -> None:
        async with served(slowly(0.05)) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET + GET)
            writer.write_eof()
            async with asyncio.timeout(HANG_SECONDS):
                assert (await reader.read()).count(b"200 OK") == 2
            writer.close()

    uvloop.run(main())


def test_connection_reset_cancels_the_handler():
    async def main() -> None:
        cancelled = asyncio.Event()
        began = asyncio.Event()

        async def wait(_request: Request) -> Response:
            began.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

        async with served(wait) as (_, port):
            raw = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port))
            # With SO_LINGER of 0 seconds, close() sends a reset instead of a FIN.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.sendall(GET)
            await began.wait()
            raw.close()
            async with asyncio.timeout(HANG_SECONDS):
                await cancelled.wait()

    uvloop.run(main())


def test_large_responses_to_a_slow_reader_are_complete():
    async def main() -> None:
        big = Response(status=200, body=b"x" * 8_000_000)
        async with served(lambda _request: big) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
            writer.write(GET + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await asyncio.sleep(0.2)
            async with asyncio.timeout(HANG_SECONDS):
                data = await reader.read()
            assert len(data) > 16_000_000
            writer.close()

    uvloop.run(main())


@pytest.mark.parametrize("half_closed", [False, True])
@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
def test_client_that_does_not_read_is_disconnected(last: bytes, half_closed: bool):
    """The response is shorter than the write buffer of the transport, so the transport does not report a slow peer."""

    async def main() -> None:
        short = Timeouts(head=0.05, body=0.05, idle=0.05, answer=HANG_SECONDS, write=0.05, linger=0.05)
        response = Response(status=200, body=bytes(30_000))
        listener = tcp_listener("127.0.0.1", 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        server = HttpServer(lambda _request: response, timeouts=short)
        await server.start([Listener(socket=listener)])
        with socket.socket() as guest:
            guest.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            guest.connect(listener.getsockname())
            await settles(server, 1)
            guest.send(b"GET /x HTTP/1.1\r\nHost: a\r\n" + last + b"\r\n")
            if half_closed:
                guest.shutdown(socket.SHUT_WR)
            await settles(server, 0)
        await server.stop(1)

    uvloop.run(main())


def test_connection_reset_before_accept_is_ignored():
    async def main() -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        listener, handled = tcp_listener("127.0.0.1", 0), list[Request]()

        def note(request: Request) -> Response:
            handled.append(request)
            return echo(request)

        server = HttpServer(note)
        await server.start([Listener(socket=listener, source_mac=lambda _connected: "fa:16:3e:00:00:01")])
        port = listener.getsockname()[1]
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", port))
            client.send(GET)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert (await exchange(port, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).startswith(
            b"HTTP/1.1 200"
        )
        await settles(server, 0)
        assert not failures
        assert {request.peer for request in handled} == {"127.0.0.1"}
        await server.stop(1)

    uvloop.run(main())


def test_stop_finishes_open_requests_and_refuses_new_connections():
    async def main() -> None:
        listener = tcp_listener("127.0.0.1", 0)
        port = listener.getsockname()[1]
        gated = Gated()
        server = HttpServer(gated.respond)
        await server.start([Listener(socket=listener)])
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await gated.began.wait()
        await settles(server, 2)
        stopping = asyncio.create_task(server.stop(HANG_SECONDS))
        await until_async(lambda: server.draining)
        gated.gate.set()
        await stopping
        response = await reader.read()
        assert response.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in response
        assert await idle_reader.read() == b""
        refused = False
        try:
            await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            refused = True
        assert refused
        for each in (writer, idle_writer):
            each.close()

    uvloop.run(main())


def test_listener_is_opened_and_closed_while_others_are_served():
    async def main() -> None:
        gated = Gated()
        async with served(gated.respond) as (server, port):
            further = tcp_listener("127.0.0.1", 0)
            further_port = further.getsockname()[1]
            await server.open(Listener(socket=further, tag="network:one"))
            reader, writer = await asyncio.open_connection("127.0.0.1", further_port)
            writer.write(GET)
            await gated.began.wait()
            await server.close(further)
            await server.close(further)
            gated.gate.set()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", further_port)
            assert await read_response(reader) == (200, b"GET /x 0 network:one")
            writer.write(GET)  # the open connection continues
            assert await read_response(reader) == (200, b"GET /x 0 network:one")
            writer.close()
            assert (await exchange(port, b"GET /y HTTP/1.0\r\n\r\n")).endswith(b"GET /y 0 t")

    uvloop.run(main())


def test_queued_connection_of_a_closed_listener_is_served_through_a_duplicate():
    async def main() -> None:
        async with served(echo) as (server, _):
            listening = tcp_listener("127.0.0.1", 0)
            duplicate = listening.dup()
            await server.open(Listener(socket=listening, tag="first"))
            await server.close(listening)
            reader, writer = await asyncio.open_connection("127.0.0.1", duplicate.getsockname()[1])
            writer.write(GET)
            await server.open(Listener(socket=duplicate, tag="second"))
            assert await read_response(reader) == (200, b"GET /x 0 second")
            writer.close()

    uvloop.run(main())


def test_burst_of_a_thousand_connections_is_served():
    async def main() -> None:
        async with served(slowly(0.01), connections=ConnectionLimits(per_peer=2000)) as (_, port):

            async def is_served() -> bool:
                return (await exchange(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")

            assert all(await asyncio.gather(*(is_served() for _ in range(1000))))

    uvloop.run(main())


def test_unix_socket_is_served(tmp_path: Path):
    async def main() -> None:
        path = tmp_path / "metadata_proxy"
        server = HttpServer(echo)
        await server.start([Listener(socket=unix_listener(path, UnixAccess()), tag="unix")])
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(GET)
        assert await read_response(reader) == (200, b"GET /x 0 unix")
        writer.close()
        await server.stop(1)

    uvloop.run(main())


def test_peer_is_the_address_of_the_client():
    async def main() -> None:
        async with served(lambda request: Response(status=200, body=request.peer.encode())) as (_, port):
            assert (await exchange(port, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\n127.0.0.1")

    uvloop.run(main())


def test_request_in_segments_of_one_byte_is_served():
    """The client sends one byte per segment. The request does not depend on the boundaries of reads."""

    async def main() -> None:
        async with served(echo) as (_, port):

            def send_bytes() -> bytes:
                with socket.create_connection(("127.0.0.1", port)) as raw:
                    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for byte in b"POST /drip HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab":
                        raw.sendall(bytes([byte]))
                    return b"".join(iter(lambda: raw.recv(4096), b""))

            assert (await asyncio.to_thread(send_bytes)).endswith(b"POST /drip 2 t")

    uvloop.run(main())
