"""The responses that the server replays from the cache without parsing the request, and the requests that it parses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from tests.waiting import HANG_SECONDS

from openimds.http.messages import Request, Response
from openimds.http.server.response import CacheBudget, ResponseCache
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import tcp_listener

ID = b"req-11111111-2222-4333-8444-555555555501"
OTHER = b"req-11111111-2222-4333-8444-555555555502"
DATE = b"Sun, 22 Nov 2026 00:00:00 GMT"


HEADERS = ((b"Content-Type", b"x"), (b"X-Openstack-Request-Id", ID))


@dataclass
class FakeReplay:
    """The callback of the handler that renders a replayed response."""

    ids: list[bytes] = field(default_factory=list)
    stale: bool = False

    def __call__(self, given: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
        self.ids.append(given)
        return None if self.stale else (given or OTHER, b"x", b"y", b"z")

    def response(
        self, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = HEADERS, body: bytes = b"abc"
    ) -> Response:
        return Response(status=status, headers=headers, body=body, replay=self)


def replayable(**fields: Any) -> Response:
    return FakeReplay().response(**fields)


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET /x HTTP/1.1", b"Host: a", *lines, b"", b""))


def with_id(value: bytes, name: bytes = b"X-Openstack-Request-Id") -> bytes:
    return head(name + b": " + value)


def test_request_that_differs_only_in_its_id_is_replayed() -> None:
    cache, replays = ResponseCache(), FakeReplay()
    cache.learn(with_id(ID), replays.response(), DATE)
    assert cache.answer(with_id(OTHER), DATE) == (
        b"HTTP/1.1 200 OK\r\nDate: " + DATE + b"\r\nContent-Type: x\r\nContent-Length: 3\r\nConnection: keep-alive\r\n"
        b"X-Openstack-Request-Id: " + OTHER + b"\r\n\r\nxyz",
        True,
    )
    assert replays.ids == [OTHER]
    replays.stale = True
    assert cache.answer(with_id(OTHER), DATE) is None
    replays.stale = False
    assert cache.answer(with_id(OTHER), DATE) is None  # the stale entry is dropped


@pytest.mark.parametrize(
    "data",
    [
        with_id(OTHER + b"0"),
        with_id(OTHER[:-1]),
        with_id(OTHER.upper()),
        with_id(b"req-" + b"g" * 36),
        with_id(OTHER + b"\r\nX: y"),
        with_id(OTHER)[:-2],
        with_id(OTHER) + b"G",
        with_id(OTHER) + with_id(OTHER),
        with_id(OTHER).replace(b"/x", b"/y"),
        with_id(OTHER).replace(b"Host: a", b"host: a"),
        with_id(OTHER).replace(b"\r\n", b"\n"),
        b"\r\n" + with_id(OTHER),
        head(),
        b"",
    ],
)
def test_any_other_difference_is_parsed(data: bytes) -> None:
    cache = ResponseCache()
    cache.learn(with_id(ID), replayable(), DATE)
    assert cache.answer(data, DATE) is None


@pytest.mark.parametrize(
    ("data", "response"),
    [
        (with_id(ID, b"X-OpenStack-Request-ID"), replayable()),
        (head(b"X-Openstack-Request-Id: " + ID, b"X-OpenStack-Request-ID: " + ID), replayable()),
        (with_id(b"something"), replayable()),
        (head(b"X: " + b"y" * 3000), replayable()),
        (with_id(ID), replayable(headers=())),
        (with_id(ID), replayable(status=304)),
        (with_id(ID), replayable(headers=(*HEADERS, (b"X", b"a\r\nb")))),
    ],
)
def test_unsuitable_responses_are_not_cached(data: bytes, response: Response) -> None:
    cache = ResponseCache()
    cache.learn(data, response, DATE)
    assert cache.answer(data, DATE) is None


def test_request_id_header_in_lower_case_is_recognized() -> None:
    cache = ResponseCache()
    cache.learn(with_id(ID, b"x-openstack-request-id"), replayable(), DATE)
    response, _ = cache.answer(with_id(OTHER, b"x-openstack-request-id"), DATE) or (b"", True)
    assert OTHER in response


def test_request_without_an_id_gets_a_new_id() -> None:
    cache = ResponseCache()
    cache.learn(head(), replayable(), DATE)
    response, _ = cache.answer(head(), DATE) or (b"", True)
    assert OTHER in response


def test_request_id_of_a_guest_is_parsed() -> None:
    cache = ResponseCache()
    cache.learn(with_id(ID), replayable(), DATE, b"10.0.0.5 fa:16:3e:00:00:0a\n")
    assert cache.answer(with_id(ID), DATE, b"10.0.0.5 fa:16:3e:00:00:0a\n") is None


def test_replayed_body_of_another_length_is_an_error() -> None:
    cache, replays = ResponseCache(), FakeReplay()
    cache.learn(head(), replays.response(), DATE)
    cache.learn(with_id(ID), replays.response(body=b"abcd"), DATE)
    assert cache.answer(head(), DATE) is not None
    with pytest.raises(RuntimeError):
        cache.answer(with_id(ID), DATE)


def test_exhausted_budget_evicts_entries_of_the_same_listener() -> None:
    budget = CacheBudget(100_000)
    small, large = ResponseCache(budget), ResponseCache(budget)
    small.learn(with_id(ID), replayable(), DATE)
    for number in range(1000):
        large.learn(head(b"User-Agent: %d" % number), replayable(), DATE)
        assert small.bytes + large.bytes <= 100_000
    assert small.answer(with_id(OTHER), DATE) is not None


def test_replaced_entry_is_counted_once() -> None:
    cache, replays = ResponseCache(), FakeReplay()
    for _ in range(3):
        cache.learn(with_id(ID), replays.response(), DATE)
    once = cache.bytes
    replays.stale = True
    cache.answer(with_id(OTHER), DATE)
    assert (cache.bytes, once > 0) == (0, True)


def test_deleted_cache_releases_its_budget() -> None:
    budget = CacheBudget(100_000)
    for _ in range(100):
        deleted = ResponseCache(budget)
        for number in range(50):
            deleted.learn(head(b"User-Agent: %d" % number), replayable(), DATE)
    remaining = ResponseCache(budget)
    del deleted
    for number in range(50):
        remaining.learn(head(b"User-Agent: %d" % number), replayable(), DATE)
    assert remaining.answer(head(b"User-Agent: 0"), DATE) is not None


def test_handler_is_called_once_for_equal_requests() -> None:
    handled: list[Request] = []

    async def handler(request: Request) -> Response:
        handled.append(request)
        return replayable()

    async def main() -> None:
        listener = tcp_listener("127.0.0.1", 0)
        server = HttpServer(handler)
        await server.start([Listener(socket=listener)])
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        bodies = []
        for data in (with_id(ID), with_id(OTHER), with_id(ID)[:20], with_id(ID)[20:], with_id(OTHER)):
            writer.write(data)
            if data.endswith(b"\r\n\r\n"):
                text = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HANG_SECONDS)
                bodies.append((await reader.readexactly(3), ID in text))
            else:
                await asyncio.sleep(0.05)
        assert bodies == [(b"abc", True), (b"xyz", False), (b"abc", True), (b"xyz", False)]
        assert len(handled) == 2
        writer.close()
        await server.stop(1)

    uvloop.run(main())


def test_request_that_closes_the_connection_is_replayed() -> None:
    """The replayed response has `Connection: close`, the server closes the connection, and a longer header is not cut."""
    handled: list[Request] = []

    async def handler(request: Request) -> Response:
        handled.append(request)
        return replayable()

    async def send(address: tuple[str, int], data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(data)
        received = await asyncio.wait_for(reader.read(), HANG_SECONDS)
        writer.close()
        return received

    async def main() -> None:
        listener = tcp_listener("127.0.0.1", 0)
        server = HttpServer(handler)
        await server.start([Listener(socket=listener)])
        address = listener.getsockname()
        for closing in (head(b"Connection: close"), head().replace(b"HTTP/1.1", b"HTTP/1.0")):
            handled.clear()
            first, *others = [await send(address, closing) for _ in range(3)]
            assert first.endswith(b"\r\n\r\nabc")
            for replayed in others:
                assert replayed.endswith(b"\r\n\r\nxyz")
                assert (replayed.count(b"Connection: "), replayed.count(b"Connection: close\r\n")) == (1, 1)
            assert len(handled) == 1
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head())
        text = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HANG_SECONDS)
        assert b"Connection: keep-alive\r\n" in text
        writer.close()
        await server.stop(1)

    uvloop.run(main())
