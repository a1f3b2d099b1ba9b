"""The agent that answers guests itself, over the loopback: what guests may do, and how often."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest
from tests.unit.agents.metadata.direct_cloud import MAC_A, MAC_B, A, B, FakeControl, cloud, port
from tests.unit.agents.metadata.direct_guests import A_AT_1, B_AT_2, NAME, leg
from tests.waiting import HANG_SECONDS

from openimds.agents.metadata.lookup.resolver import LookupPolicy
from openimds.config.settings import RateLimitOptions


async def test_a_ports_bucket_is_one_for_all_its_addresses_and_repeats() -> None:
    limit = RateLimitOptions(
        ip_versions=frozenset({4, 6}),
        base_window_seconds=86400,
        base_requests=40,
        burst_window_seconds=86400,
        burst_requests=30,
    )
    both = port(A, MAC_A, "127.0.0.1", "127.0.0.3")
    async with cloud(ports=[both, B_AT_2], rate_limit=limit) as there:
        first, second = await there.guest(MAC_A), await there.guest(MAC_A, address="127.0.0.3")
        for _ in range(14):
            assert (await first.ask(NAME))[0] == 200
            assert (await second.ask(NAME))[0] == 200
        assert [(await first.ask(NAME))[0] for _ in range(4)] == [200, 200, 429, 429]
        assert (await second.ask(NAME))[0] == 429
        assert b"Retry-After: " in second.head
        neighbour = await there.guest(MAC_B, address="127.0.0.2")
        assert (await neighbour.ask(NAME))[0] == 200


async def test_strict_requests() -> None:
    async with cloud(ports=[A_AT_1], strict_hosts=("169.254.169.254",)) as there:
        guest = await there.guest(MAC_A)
        assert (await guest.ask(NAME))[0] == 200
        assert (await guest.ask(NAME, "GET", "X-Forwarded-For: 1.2.3.4"))[0] == 403
        assert (await guest.ask("/", "GET", "x_instance_id: " + B))[0] == 403


async def test_a_token_goes_one_hop_and_its_header_is_not_shown() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        await guest.ask(NAME)
        ttl = (socket.IPPROTO_IP, socket.IP_TTL)
        normal = there.sockets[0].getsockopt(*ttl)
        status, token = await guest.ask(
            "/latest/api/token", "PUT", "X-aws-ec2-metadata-token-ttl-seconds: 60", "Content-Length: 0"
        )
        assert status == 200
        assert there.sockets[0].getsockopt(*ttl) == 1
        assert b"hop-limit" not in guest.head.lower()
        mine = f"X-aws-ec2-metadata-token: {token.decode()}"
        assert await guest.ask(NAME, "GET", mine) == (200, b"vm-a.novalocal")
        assert there.sockets[0].getsockopt(*ttl) == normal
        forwarded = ("X-aws-ec2-metadata-token-ttl-seconds: 60", "X-Forwarded-For: 1.2.3.4", "Content-Length: 0")
        assert (await guest.ask("/latest/api/token", "PUT", *forwarded))[0] == 403
        there.service.reload("another")
        assert (await guest.ask(NAME, "GET", mine))[0] == 200  # made with the secret before
        assert (await guest.ask(NAME, "GET", "X-aws-ec2-metadata-token: bad"))[0] == 401


async def test_a_forwarded_token_keeps_its_hop_limit() -> None:
    async with cloud(ports=[A_AT_1], control=FakeControl(offered=False)) as there:
        there.api.headers = ((b"X-Openimds-Hop-Limit", b"3"), (b"Content-Type", b"text/plain"))
        guest = await there.guest(MAC_A)
        assert (await guest.ask("/latest/api/token", "PUT", "Content-Length: 0"))[0] == 200
        assert there.sockets[0].getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 3
        assert b"hop-limit" not in guest.head.lower()


STRICT = RateLimitOptions(
    ip_versions=frozenset({4, 6}), base_window_seconds=600, base_requests=3, burst_window_seconds=600, burst_requests=3
)


@pytest.mark.parametrize(
    ("malformed", "status"),
    [(b"GET /x\x01 HTTP/1.1\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n", b"403")],
)
async def test_malformed_requests_are_counted_and_others_are_not_their_victims(malformed: bytes, status: bytes) -> None:
    """After so many, none of this guest's new connections or requests are read; what is another's is answered."""

    hosts = ("169.254.169.254",)
    async with cloud(ports=[A_AT_1, B_AT_2], rate_limit=STRICT, strict_hosts=hosts) as there:
        open_before = await there.guest(MAC_A)
        said = [await (await there.guest(MAC_A)).ask_last(malformed) for _ in range(5)]
        assert [one.split(b" ", 2)[1] for one in said] == [status] * 4 + [b"429"]
        assert b"Retry-After: " in said[-1]
        assert (await open_before.ask(NAME))[0] == 429
        assert there.lines.facts[-1]["status"] == 429
        other = await there.guest(MAC_B, address="127.0.0.2")
        assert await other.ask(NAME) == (200, b"vm-b.novalocal")


async def test_requests_of_whom_nobody_knows_are_counted() -> None:
    async with cloud(ports=[B_AT_2], rate_limit=STRICT) as there:
        stranger = await there.guest(MAC_A)
        assert [(await stranger.ask(NAME))[0] for _ in range(6)] == [404] * 4 + [429] * 2
        other = await there.guest(MAC_B, address="127.0.0.2")
        assert await other.ask(NAME) == (200, b"vm-b.novalocal")


async def test_who_was_nobody_and_has_a_port_now_is_answered_at_once() -> None:
    async with cloud(ports=[B_AT_2], rate_limit=STRICT) as there:
        early, limiter = await there.guest(MAC_A), there.service.unknown_clients
        assert limiter is not None
        assert [(await early.ask(NAME))[0] for _ in range(6)] == [404] * 4 + [429] * 2
        there.mirror.hear(B_AT_2, A_AT_1)
        await there.until(lambda: limiter.wait_seconds("network:n1", MAC_A, "127.0.0.1") == 0)
        assert await early.ask(NAME) == (200, b"vm-a.novalocal")
        assert await (await there.guest(MAC_A)).ask(NAME) == (200, b"vm-a.novalocal")


async def test_not_yet_is_not_counted() -> None:
    """The control API is away for as long as many requests take; when it is back, nobody has to wait for having asked."""

    control, belief = FakeControl(away=True), LookupPolicy(hold_seconds=0.001)
    async with cloud(control=control, rate_limit=STRICT, policy=belief) as there:
        early = await there.guest(MAC_A)
        assert [(await early.ask(NAME))[0] for _ in range(10)] == [503] * 10
        control.real, control.away = [A_AT_1], False
        status = 503
        async with asyncio.timeout(HANG_SECONDS):
            while status == 503:  # what the control API was a moment ago is remembered for a moment
                status, _ = await early.ask(NAME)
        assert status == 200


async def test_behind_a_router_another_networks_guest_of_the_same_mac_locks_nobody_out() -> None:
    """Two projects' networks at one router: each may choose the MACs of its own ports."""

    twin = replace(B_AT_2, network_id="n2", mac_address=MAC_A)
    legs = [leg("n1"), leg("n2")]
    async with cloud(ports=[A_AT_1, twin, *legs], listeners=("router:r1",), rate_limit=STRICT, per_peer=6) as there:
        for _ in range(5):
            said = await (await there.guest(MAC_A, listener="router:r1", address="127.0.0.2")).ask_last(b"\x01\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 429 ")
        for _ in range(6):
            victim = await there.guest(MAC_A, listener="router:r1")
        assert await victim.ask(NAME) == (200, b"vm-a.novalocal")
