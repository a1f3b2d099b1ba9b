"""`python -m bench.http_client`: the processor time of a forwarded request, by the own HTTP client, aiohttp and httpcore.

A server process returns a document of 2 KiB. A client process sends signed requests with the headers that the metadata
agent forwards, over kept-alive connections and one uvloop. aiohttp and httpcore are not dependencies of openimds: install
them in a virtual environment beside openimds. A client that is not installed is skipped.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvloop

from openimds.http.client.pool import ClientRequest, Pool, PoolSettings, ServerAddress
from openimds.http.messages import Request, Response
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import UnixAccess, tcp_listener, unix_listener

try:
    import aiohttp
    import yarl
except ImportError:
    aiohttp = None
try:
    import httpcore
except ImportError:
    httpcore = None

TASKS = 64
REQUESTS = 3_200
RUNS = 3
TIMEOUT_SECONDS = 30.0
TARGET = b"/openstack/latest/meta_data.json"
BODY = b'{"' + b"x" * 2044 + b'"}'
HEADERS = (
    (b"Accept", b"*/*"),
    (b"User-Agent", b"Cloud-Init/23.4"),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"X-Forwarded-For", b"10.0.0.5"),
    (b"X-Instance-ID", b"0f2c1d52-8f2c-4d0a-9d55-0c9a5cbb6c1e"),
    (b"X-Tenant-ID", b"6f1d3a4be5f1431d9c3a8a2b7f5d1c2e"),
    (b"X-Instance-ID-Signature", b"4d9ff5d7f0d1c7b0f1f3e0c5a4f0f0bb5d1c9a2f4b7e6d3c2a1908f7e6d5c4b3"),
    (b"X-Openstack-Request-Id", b"req-7b7a1b8e-0a52-4c7c-8b0d-4f2c1d528f2c"),
)
Send = Callable[[], Awaitable[int]]
"""Sends one request, reads the response, and returns its status."""


@asynccontextmanager
async def own_client(address: str) -> AsyncIterator[Send]:
    upstream = (
        ServerAddress(path=Path(address)) if "/" in address else ServerAddress(host="127.0.0.1", port=int(address))
    )
    pool = Pool(upstream, PoolSettings(max_connections=TASKS))
    request = ClientRequest(method="GET", target=TARGET, headers=HEADERS)

    async def send() -> int:
        response = await pool.request(request, TIMEOUT_SECONDS)
        assert len(response.body) == len(BODY)
        return response.status

    yield send
    await pool.close()


@asynccontextmanager
async def aiohttp_client(address: str) -> AsyncIterator[Send]:
    connector = (
        aiohttp.UnixConnector(address, limit=TASKS)
        if "/" in address
        else aiohttp.TCPConnector(limit=TASKS, ttl_dns_cache=None)
    )
    base = "http://localhost" if "/" in address else f"http://127.0.0.1:{address}"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:

        async def send() -> int:
            # Both are part of each request: its target comes from the client, and its headers are signed.
            url = yarl.URL(base + TARGET.decode(), encoded=True)
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in HEADERS]
            async with session.request("GET", url, headers=headers, allow_redirects=False) as response:
                assert len(await response.read()) == len(BODY)
                assert response.raw_headers
                return response.status

        yield send


@asynccontextmanager
async def httpcore_client(address: str) -> AsyncIterator[Send]:
    path = address if "/" in address else None
    port = None if path else int(address)
    url = httpcore.URL(scheme=b"http", host=b"127.0.0.1", port=port, target=TARGET)
    timeouts = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)}
    async with httpcore.AsyncConnectionPool(max_connections=TASKS, max_keepalive_connections=TASKS, uds=path) as pool:

        async def send() -> int:
            headers = [(b"Host", b"localhost"), *HEADERS]
            response = await pool.request("GET", url, headers=headers, extensions=timeouts)
            assert len(response.content) == len(BODY)
            return response.status

        yield send


CLIENTS = {
    "openimds": own_client,
    **({"aiohttp": aiohttp_client} if aiohttp else {}),
    **({"httpcore": httpcore_client} if httpcore else {}),
}


async def measure(name: str, address: str) -> tuple[float, float, float]:
    """(microseconds of processor, requests per second, p99 in milliseconds) of one run."""
    milliseconds: list[float] = []
    async with CLIENTS[name](address) as send:

        async def task(count: int) -> None:
            for _ in range(count):
                began = time.perf_counter()
                assert await send() == 200
                milliseconds.append((time.perf_counter() - began) * 1000)

        await asyncio.gather(*(task(10) for _ in range(TASKS)))
        milliseconds.clear()
        began, cpu_began = time.perf_counter(), time.process_time()
        await asyncio.gather(*(task(REQUESTS // TASKS) for _ in range(TASKS)))
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    count = len(milliseconds)
    return cpu_seconds / count * 1e6, count / seconds, statistics.quantiles(milliseconds, n=100)[98]


@contextmanager
def server() -> Iterator[tuple[str, str]]:
    """The port and the path of a server process."""
    with tempfile.TemporaryDirectory(prefix="openimds-bench-") as folder:
        path = Path(folder) / "socket"
        argv = [sys.executable, "-m", "bench.http_client", "serve", str(path)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), str(path)
        finally:
            process.terminate()
            process.wait(10)


async def serve(path: Path) -> None:
    def handler(_request: Request) -> Response:
        return Response(status=200, headers=((b"Content-Type", b"application/json"),), body=BODY)

    tcp: socket.socket = tcp_listener("127.0.0.1", 0)
    http_server = HttpServer(handler)
    await http_server.start([Listener(socket=tcp), Listener(socket=unix_listener(path, UnixAccess()))])
    print(tcp.getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    print(f"{TASKS} tasks, {REQUESTS:,} requests a run, medians of {RUNS} runs, the clients in turn\n")
    print("| client | socket | µs CPU a request | requests/s | p99 ms |\n| --- | --- | --- | --- | --- |")
    with server() as (port, path):
        for kind, address in (("TCP", port), ("unix", path)):
            runs = []
            for name in [*CLIENTS] * RUNS:
                runs.append((name, uvloop.run(measure(name, address))))
                print(kind, *runs[-1], file=sys.stderr, flush=True)
            for name in CLIENTS:
                cpu, rate, p99 = (
                    statistics.median(values) for values in zip(*(r for n, r in runs if n == name), strict=True)
                )
                print(f"| {name} | {kind} | {cpu:.0f} | {rate:,.0f} | {p99:.1f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(Path(sys.argv[2])))
    else:
        main()
