"""The log of requests that the server rejects before the handler: one line per minute and listener, without the peer's data."""

from __future__ import annotations

import asyncio

import structlog
import uvloop
from tests.waiting import HANG_SECONDS

from openimds.http.messages import Response
from openimds.http.server.rejections import LOG_SECONDS, RejectionLog
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import tcp_listener


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_first_rejection_is_logged_immediately_and_later_ones_as_a_sum() -> None:
    clock = Clock()
    log = RejectionLog(clock)
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            log.note("network:n1", 400)
        log.note("network:n1", 408)
        log.note("network:n2", 503)
        log.flush()
        assert [(line["listener"], line["count"]) for line in lines] == [("network:n1", 1), ("network:n2", 1)]
        clock.now += LOG_SECONDS
        log.flush()
        log.flush()
        assert [(line["listener"], line["statuses"]) for line in lines[2:]] == [
            ("network:n1", "999 times 400, 1 times 408")
        ]
        log.note("network:n1", 400)
        assert len(lines) == 3
        log.flush(everything=True)
        assert len(lines) == 4
    assert {line["log_level"] for line in lines} == {"info"}


def test_data_of_the_peer_is_not_logged() -> None:
    async def main() -> None:
        listener = tcp_listener("127.0.0.1", 0)
        server = HttpServer(lambda _request: Response(status=200))
        await server.start([Listener(socket=listener, tag="tcp")])
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"GET /canary\x1b[31m HTTP/1.1\r\ncan ary: \x00\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), HANG_SECONDS)).startswith(b"HTTP/1.1 400 ")
            writer.close()
        await server.stop(1)

    with structlog.testing.capture_logs() as lines:
        uvloop.run(main())
    logged = [line for line in lines if line["log_level"] == "info"]
    assert [(line["listener"], line["count"], line["statuses"]) for line in logged] == [
        ("tcp", 1, "1 times 400"),
        ("tcp", 2, "2 times 400"),
    ]
    assert "canary" not in str(lines)
