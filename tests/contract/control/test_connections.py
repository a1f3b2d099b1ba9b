"""Connections of clients that send nothing, send without end, or are too many."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import uvicorn
from structlog.testing import capture_logs
from tests.waiting import HANG_SECONDS, until

from openimds.control_api import connections

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def echo_length(scope: Any, receive: Any, send: Any) -> None:
    length, more = 0, scope["path"] != "/unread"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
    await send({"type": "http.response.body", "body": b"%08d" % length})


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(connections, "DISCARD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "LOG_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS_PER_ADDRESS", 20)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        echo_length, http=connections.limited_protocol(), loop="uvloop", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: server.started, "the server is started")
    yield listener.getsockname()[:2]
    server.should_exit = True
    thread.join(HANG_SECONDS)


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=HANG_SECONDS)


def is_closed_by_server(client: socket.socket) -> bool:
    """Waits for the end of the connection."""
    try:
        return client.recv(65536) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", HEAD, b"POST /aaaa", HEAD + b"Content-Length: 100\r\n\r\nabc"])
def test_client_that_stops_sending_is_disconnected(address: tuple[str, int], sent: bytes) -> None:
    with closing(connect(address)) as client:
        client.sendall(sent)
        assert is_closed_by_server(client)


@pytest.mark.parametrize(
    ("start", "more"), [(HEAD, b"a: b\r\n"), (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")]
)
def test_client_that_sends_slowly_without_end_is_disconnected(
    address: tuple[str, int], start: bytes, more: bytes
) -> None:
    with closing(connect(address)) as client:
        client.sendall(start)
        client.settimeout(0.05)
        deadline = time.monotonic() + HANG_SECONDS
        while time.monotonic() < deadline:
            try:
                client.sendall(more)
                if client.recv(10) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("the connection is still open")


def test_head_without_end_is_cut_off_by_its_size(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", HANG_SECONDS)
    with closing(connect(address)) as client:
        client.sendall(HEAD)
        with pytest.raises(ConnectionError):
            client.sendall((b"a: " + b"b" * 1000 + b"\r\n") * 20_000)


def test_long_body_is_received_whole(address: tuple[str, int]) -> None:
    body = b"x" * 3_000_000
    with closing(connect(address)) as client:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 300_000):
            client.sendall(body[start : start + 300_000])
            time.sleep(0.05)
        assert b"03000000" in client.recv(65536) + client.recv(65536)


def send_without_end(client: socket.socket, chunk: bytes) -> None:
    while True:
        client.sendall(chunk)


UNREAD = HEAD.replace(b"/", b"/unread", 1)


def test_response_reaches_a_client_that_reads_after_it_sent_a_body_that_is_not_read(address: tuple[str, int]) -> None:
    with closing(connect(address)) as client:
        client.sendall(UNREAD + b"Content-Length: 30000000\r\n\r\n" + bytes(30_000_000))
        client.sendall(UNREAD + b"Connection: close\r\n\r\n")
        received = b"".join(iter(lambda: client.recv(65536), b""))
        assert received.count(b"00000000") == 2


def test_body_that_is_not_read_and_has_no_end_is_cut_off(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", HANG_SECONDS)
    with closing(connect(address)) as client:
        client.sendall(UNREAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(ConnectionError):
            send_without_end(client, b"1000\r\n" + bytes(4096) + b"\r\n")


def test_connections_beyond_the_cap_are_refused_and_others_are_answered(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", HANG_SECONDS)
    with ExitStack() as opened, capture_logs() as logs:
        kept = opened.enter_context(closing(connect(address)))
        crowd = [opened.enter_context(closing(connect(address))) for _ in range(60)]
        assert sum(is_closed_by_server(client) for client in crowd[19:]) == 41
        kept.sendall(HEAD + b"Content-Length: 2\r\n\r\nab")
        assert b"00000002" in kept.recv(65536) + kept.recv(65536)
        until(lambda: bool(logs), "the refusals are logged")
        assert [(entry["event"], entry["count"]) for entry in logs] == [("connections refused: limit reached", 41)]
    until(lambda: answered(address), "closed connections are not counted any more")


def answered(address: tuple[str, int]) -> bool:
    with closing(connect(address)) as client:
        try:
            client.sendall(HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\nab")
            return client.recv(65536) != b""
        except OSError:
            return False


def test_cap_is_counted_by_ipv4_address_and_ipv6_prefix() -> None:
    assert connections.address_prefix("192.0.2.1") == "192.0.2.1/32"
    assert connections.address_prefix("2001:db8:1:2:3::1") == connections.address_prefix("2001:db8:1:2:4::9%eth0")
    assert connections.address_prefix("") == ""
