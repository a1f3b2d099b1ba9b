"""What is answered without being read, and above all what is not."""

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
class Replays:
    """The handler's part of a replay."""

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
    return Replays().response(**fields)


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET /x HTTP/1.1", b"Host: a", *lines, b"", b""))


def with_id(value: bytes, name: bytes = b"X-Openstack-Request-Id") -> bytes:
    return head(name + b": " + value)


def test_equal_bytes_but_for_the_id_are_answered() -> None:
    repeats, replays = ResponseCache(), Replays()
    repeats.learn(with_id(ID), replays.response(), DATE)
    assert repeats.answer(with_id(OTHER), DATE) == (
        b"HTTP/1.1 200 OK\r\nDate: " + DATE + b"\r\nContent-Type: x\r\nContent-Length: 3\r\nConnection: keep-alive\r\n"
        b"X-Openstack-Request-Id: " + OTHER + b"\r\n\r\nxyz",
        True,
    )
    assert replays.ids == [OTHER]
    replays.stale = True
    assert repeats.answer(with_id(OTHER), DATE) is None
    replays.stale = False
    assert repeats.answer(with_id(OTHER), DATE) is None  # what was gone once is forgotten


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
def test_anything_else_is_read(data: bytes) -> None:
    repeats = ResponseCache()
    repeats.learn(with_id(ID), replayable(), DATE)
    assert repeats.answer(data, DATE) is None


@pytest.mark.parametrize(
    ("data", "answer"),
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
def test_what_is_not_learnt(data: bytes, answer: Response) -> None:
    repeats = ResponseCache()
    repeats.learn(data, answer, DATE)
    assert repeats.answer(data, DATE) is None


def test_the_id_is_recognised_in_lower_case_as_haproxy_writes_it() -> None:
    repeats = ResponseCache()
    repeats.learn(with_id(ID, b"x-openstack-request-id"), replayable(), DATE)
    answer, _ = repeats.answer(with_id(OTHER, b"x-openstack-request-id"), DATE) or (b"", True)
    assert OTHER in answer


def test_without_an_id_a_new_one_is_given() -> None:
    repeats = ResponseCache()
    repeats.learn(head(), replayable(), DATE)
    answer, _ = repeats.answer(head(), DATE) or (b"", True)
    assert OTHER in answer


def test_an_id_of_a_guests_own_making_is_read() -> None:
    repeats = ResponseCache()
    repeats.learn(with_id(ID), replayable(), DATE, b"10.0.0.5 fa:16:3e:00:00:0a\n")
    assert repeats.answer(with_id(ID), DATE, b"10.0.0.5 fa:16:3e:00:00:0a\n") is None


def test_an_answer_of_another_length_is_an_error() -> None:
    repeats, replays = ResponseCache(), Replays()
    repeats.learn(head(), replays.response(), DATE)
    repeats.learn(with_id(ID), replays.response(body=b"abcd"), DATE)
    assert repeats.answer(head(), DATE) is not None
    with pytest.raises(RuntimeError):
        repeats.answer(with_id(ID), DATE)


def test_what_fills_the_room_of_all_is_at_the_expense_of_its_own_listener() -> None:
    room = CacheBudget(100_000)
    quiet, loud = ResponseCache(room), ResponseCache(room)
    quiet.learn(with_id(ID), replayable(), DATE)
    for number in range(1000):
        loud.learn(head(b"User-Agent: %d" % number), replayable(), DATE)
        assert quiet.bytes + loud.bytes <= 100_000
    assert quiet.answer(with_id(OTHER), DATE) is not None


def test_what_is_learnt_again_and_again_takes_its_room_once() -> None:
    repeats, replays = ResponseCache(), Replays()
    for _ in range(3):
        repeats.learn(with_id(ID), replays.response(), DATE)
    once = repeats.bytes
    replays.stale = True
    repeats.answer(with_id(OTHER), DATE)
    assert (repeats.bytes, once > 0) == (0, True)


def test_a_listener_that_has_gone_leaves_its_room() -> None:
    room = CacheBudget(100_000)
    for _ in range(100):
        gone = ResponseCache(room)
        for number in range(50):
            gone.learn(head(b"User-Agent: %d" % number), replayable(), DATE)
    stays = ResponseCache(room)
    del gone
    for number in range(50):
        stays.learn(head(b"User-Agent: %d" % number), replayable(), DATE)
    assert stays.answer(head(b"User-Agent: 0"), DATE) is not None


def test_over_a_socket_the_handler_is_asked_once() -> None:
    read: list[Request] = []

    async def handler(request: Request) -> Response:
        read.append(request)
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
        assert len(read) == 2
        writer.close()
        await server.stop(1)

    uvloop.run(main())


def test_who_asks_for_the_end_of_the_connection_is_answered_without_being_read() -> None:
    """The answer says that it is the last, and the connection ends; a longer one than before is not cut."""
    read: list[Request] = []

    async def handler(request: Request) -> Response:
        read.append(request)
        return replayable()

    async def ask(door: tuple[str, int], data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*door)
        writer.write(data)
        said = await asyncio.wait_for(reader.read(), HANG_SECONDS)
        writer.close()
        return said

    async def main() -> None:
        listener = tcp_listener("127.0.0.1", 0)
        server = HttpServer(handler)
        await server.start([Listener(socket=listener)])
        door = listener.getsockname()
        for closing in (head(b"Connection: close"), head().replace(b"HTTP/1.1", b"HTTP/1.0")):
            read.clear()
            first, *others = [await ask(door, closing) for _ in range(3)]
            assert first.endswith(b"\r\n\r\nabc")
            for said in others:
                assert said.endswith(b"\r\n\r\nxyz")
                assert (said.count(b"Connection: "), said.count(b"Connection: close\r\n")) == (1, 1)
            assert len(read) == 1
        stays = await asyncio.open_connection(*door)
        stays[1].write(head())
        text = await asyncio.wait_for(stays[0].readuntil(b"\r\n\r\n"), HANG_SECONDS)
        assert b"Connection: keep-alive\r\n" in text
        stays[1].close()
        await server.stop(1)

    uvloop.run(main())
