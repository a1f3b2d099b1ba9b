"""The connection pool of the HTTP client, against the server of openimds and a scripted server that violates HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from tests.waiting import HANG_SECONDS, until_async

from openimds.http.client.pool import ClientRequest, Pool, PoolSettings, ServerAddress, UpstreamError
from openimds.http.messages import Request, Response
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import UnixAccess, unix_listener

GET = ClientRequest(method="GET", target=b"/x")


async def settles(pool: Pool, connections: int) -> None:
    """Waits for the number of connections. An aborted connection is removed in the next iteration of the event loop."""
    await until_async(lambda: pool.connection_count == connections)


@asynccontextmanager
async def scripted(
    responses: Sequence[bytes | None], *, close_after: bool = False
) -> AsyncIterator[tuple[ServerAddress, list[bytes]]]:
    """Serves one scripted response per request. The server closes the connection for None and after the last response."""
    remaining = list(responses)
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while remaining:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                response = remaining.pop(0)
                if response is None:
                    break
                writer.write(response)
                await writer.drain()
                if close_after:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield ServerAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1]), heads
    finally:
        server.close()
        await server.wait_closed()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_connection_is_reused():
    async def main() -> None:
        async with scripted([OK] * 3) as (upstream, heads):
            pool = Pool(upstream)
            for _ in range(3):
                assert (await pool.request(GET, HANG_SECONDS)).body == b"ok"
            await settles(pool, 1)
            assert heads[0] == b"GET /x HTTP/1.1\r\nHost: %s\r\n\r\n" % upstream.authority.encode()
            await pool.close()

    uvloop.run(main())


@pytest.mark.parametrize(
    ("scripted_response", "status", "body"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\x00",
            200,
            b"\x1f\x8b\x00\x00",
        ),
    ],
)
def test_response_is_parsed(scripted_response, status, body):
    async def main() -> None:
        async with scripted([scripted_response, OK]) as (upstream, _):
            pool = Pool(upstream)
            response = await pool.request(GET, HANG_SECONDS)
            assert (response.status, response.body) == (status, body)
            assert (await pool.request(GET, HANG_SECONDS)).body == b"ok"
            await settles(pool, 1)
            await pool.close()

    uvloop.run(main())


def test_body_without_a_length_ends_with_the_connection():
    async def main() -> None:
        async with scripted([b"HTTP/1.0 200 OK\r\n\r\nall of it"], close_after=True) as (upstream, _):
            pool = Pool(upstream)
            assert (await pool.request(GET, HANG_SECONDS)).body == b"all of it"
            await pool.close()

    uvloop.run(main())


def test_response_to_head_has_no_body():
    async def main() -> None:
        async with scripted([b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", OK]) as (upstream, _):
            pool = Pool(upstream)
            response = await pool.request(ClientRequest(method="HEAD", target=b"/"), HANG_SECONDS)
            assert (response.status, response.body) == (200, b"")
            assert (b"Content-Length", b"5000") in response.headers
            assert (await pool.request(GET, HANG_SECONDS)).body == b"ok"
            await pool.close()

    uvloop.run(main())


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
def test_malformed_response_is_an_error(response):
    async def main() -> None:
        async with scripted([response], close_after=True) as (upstream, _):
            pool = Pool(upstream)
            with pytest.raises(UpstreamError, match="broke off"):
                await pool.request(GET, HANG_SECONDS)
            await settles(pool, 0)
            await pool.close()

    uvloop.run(main())


def test_stale_connection_is_retried_for_get_and_not_used_for_post():
    async def main() -> None:
        async with scripted([OK, None, OK, OK]) as (upstream, heads):
            pool = Pool(upstream)
            await pool.request(GET, HANG_SECONDS)
            # The server closes the connection after the second head and responds to the third.
            assert (await pool.request(GET, HANG_SECONDS)).body == b"ok"
            assert len(heads) == 3
            await pool.request(ClientRequest(method="POST", target=b"/p", body=b""), HANG_SECONDS)
            await settles(pool, 2)
            assert b"Content-Length: 0\r\n" in heads[3]
            await pool.close()

    uvloop.run(main())


def test_closed_new_connection_is_not_retried():
    async def main() -> None:
        async with scripted([None, OK]) as (upstream, heads):
            pool = Pool(upstream)
            with pytest.raises(UpstreamError):
                await pool.request(GET, HANG_SECONDS)
            assert len(heads) == 1
            await pool.close()

    uvloop.run(main())


def test_unreachable_and_silent_servers_are_errors():
    async def main() -> None:
        async with scripted([]) as (upstream, _):
            pass
        pool = Pool(upstream)
        with pytest.raises(UpstreamError, match=f"http://127.0.0.1:{upstream.port} cannot be reached"):
            await pool.request(GET, HANG_SECONDS)

        async with scripted([b"", b""]) as (silent, _):
            pool = Pool(silent)
            with pytest.raises(UpstreamError, match=r"did not answer within 0\.2 s"):
                await pool.request(GET, 0.2)
            await settles(pool, 0)
            await pool.close()

    uvloop.run(main())


def test_connection_of_a_cancelled_request_is_not_reused():
    async def main() -> None:
        async with scripted([b"", OK]) as (upstream, heads):
            pool = Pool(upstream)
            task = asyncio.ensure_future(pool.request(GET, HANG_SECONDS))
            await until_async(lambda: heads)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await pool.request(GET, HANG_SECONDS)).body == b"ok"
            await settles(pool, 1)
            await pool.close()

    uvloop.run(main())


def test_response_over_the_limit_is_an_error():
    async def main() -> None:
        async with scripted([b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000]) as (upstream, _):
            pool = Pool(upstream, PoolSettings(max_response_bytes=1000))
            with pytest.raises(UpstreamError, match="larger than 1000 bytes"):
                await pool.request(GET, HANG_SECONDS)
            await pool.close()

    uvloop.run(main())


def test_unexpected_response_closes_the_connection():
    async def main() -> None:
        async with scripted([OK + OK, OK]) as (upstream, _):
            pool = Pool(upstream)
            await pool.request(GET, HANG_SECONDS)
            assert (await pool.request(GET, HANG_SECONDS)).body == b"ok"
            await settles(pool, 1)
            await pool.close()

    uvloop.run(main())


def test_number_of_connections_is_limited(tmp_path: Path):
    async def main() -> None:
        busy = 0
        most = 0

        async def respond(request: Request) -> Response:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.01)
            busy -= 1
            return Response(status=200, body=request.body or request.target)

        path = tmp_path / "sock"
        server = HttpServer(respond)
        await server.start([Listener(socket=unix_listener(path, UnixAccess()))])
        pool = Pool(ServerAddress(path=path), PoolSettings(max_connections=4))
        requests = [ClientRequest(method="GET", target=b"/%d" % n) for n in range(50)]
        responses = await asyncio.gather(*(pool.request(each, HANG_SECONDS) for each in requests))
        assert [response.body for response in responses] == [each.target for each in requests]
        assert most <= 4
        big = bytes(range(256)) * 100
        assert (await pool.request(ClientRequest(method="POST", target=b"/", body=big), HANG_SECONDS)).body == big
        await pool.close()
        await server.stop(1)

    uvloop.run(main())


def test_line_break_in_a_request_is_rejected():
    async def main() -> None:
        pool = Pool(ServerAddress(host="127.0.0.1", port=1))
        for request in (
            ClientRequest(method="GET", target=b"/ HTTP/1.1\r\nX: y"),
            ClientRequest(method="GET", target=b"/", headers=((b"X", b"a\r\nb: c"),)),
        ):
            with pytest.raises(ValueError, match="line break"):
                await pool.request(request, 1)

    uvloop.run(main())


def test_authority_has_brackets_for_ipv6_and_a_unix_socket_is_its_path():
    assert ServerAddress(host="controller", port=8775).authority == "controller:8775"
    assert ServerAddress(host="fd00::1", port=8775).authority == "[fd00::1]:8775"
    assert str(ServerAddress(path=Path("/run/x"))) == "/run/x"
