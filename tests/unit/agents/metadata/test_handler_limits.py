"""Direct mode over the loopback: limits of clients and strict requests."""

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


async def test_all_addresses_and_replayed_responses_of_a_port_share_one_bucket() -> None:
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
            assert (await first.request(NAME))[0] == 200
            assert (await second.request(NAME))[0] == 200
        assert [(await first.request(NAME))[0] for _ in range(4)] == [200, 200, 429, 429]
        assert (await second.request(NAME))[0] == 429
        assert b"Retry-After: " in second.head
        neighbour = await there.guest(MAC_B, address="127.0.0.2")
        assert (await neighbour.request(NAME))[0] == 200


async def test_strict_mode_rejects_forwarded_requests_and_identity_headers() -> None:
    async with cloud(ports=[A_AT_1], strict_hosts=("169.254.169.254",)) as there:
        guest = await there.guest(MAC_A)
        assert (await guest.request(NAME))[0] == 200
        assert (await guest.request(NAME, "GET", "X-Forwarded-For: 1.2.3.4"))[0] == 403
        assert (await guest.request("/", "GET", "x_instance_id: " + B))[0] == 403


async def test_a_token_response_has_hop_limit_1_and_no_internal_header() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        await guest.request(NAME)
        ttl = (socket.IPPROTO_IP, socket.IP_TTL)
        normal = there.sockets[0].getsockopt(*ttl)
        status, token = await guest.request(
            "/latest/api/token", "PUT", "X-aws-ec2-metadata-token-ttl-seconds: 60", "Content-Length: 0"
        )
        assert status == 200
        assert there.sockets[0].getsockopt(*ttl) == 1
        assert b"hop-limit" not in guest.head.lower()
        mine = f"X-aws-ec2-metadata-token: {token.decode()}"
        assert await guest.request(NAME, "GET", mine) == (200, b"vm-a.novalocal")
        assert there.sockets[0].getsockopt(*ttl) == normal
        forwarded = ("X-aws-ec2-metadata-token-ttl-seconds: 60", "X-Forwarded-For: 1.2.3.4", "Content-Length: 0")
        assert (await guest.request("/latest/api/token", "PUT", *forwarded))[0] == 403
        there.service.reload("another")
        assert (await guest.request(NAME, "GET", mine))[0] == 200  # the agent issued it with the former secret
        assert (await guest.request(NAME, "GET", "X-aws-ec2-metadata-token: bad"))[0] == 401


async def test_a_forwarded_token_keeps_its_hop_limit() -> None:
    async with cloud(ports=[A_AT_1], control=FakeControl(offered=False)) as there:
        there.api.headers = ((b"X-Openimds-Hop-Limit", b"3"), (b"Content-Type", b"text/plain"))
        guest = await there.guest(MAC_A)
        assert (await guest.request("/latest/api/token", "PUT", "Content-Length: 0"))[0] == 200
        assert there.sockets[0].getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 3
        assert b"hop-limit" not in guest.head.lower()


STRICT = RateLimitOptions(
    ip_versions=frozenset({4, 6}), base_window_seconds=600, base_requests=3, burst_window_seconds=600, burst_requests=3
)


@pytest.mark.parametrize(
    ("malformed", "status"),
    [(b"GET /x\x01 HTTP/1.1\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n", b"403")],
)
async def test_malformed_requests_ban_their_client_only(malformed: bytes, status: bytes) -> None:
    """After the limit, new connections and requests of this client are rejected. Another client gets its response."""
    hosts = ("169.254.169.254",)
    async with cloud(ports=[A_AT_1, B_AT_2], rate_limit=STRICT, strict_hosts=hosts) as there:
        open_before = await there.guest(MAC_A)
        responses = [await (await there.guest(MAC_A)).request_last(malformed) for _ in range(5)]
        assert [one.split(b" ", 2)[1] for one in responses] == [status] * 4 + [b"429"]
        assert b"Retry-After: " in responses[-1]
        assert (await open_before.request(NAME))[0] == 429
        assert there.lines.facts[-1]["status"] == 429
        other = await there.guest(MAC_B, address="127.0.0.2")
        assert await other.request(NAME) == (200, b"vm-b.novalocal")


async def test_requests_of_an_unknown_client_are_limited() -> None:
    async with cloud(ports=[B_AT_2], rate_limit=STRICT) as there:
        unknown = await there.guest(MAC_A)
        assert [(await unknown.request(NAME))[0] for _ in range(6)] == [404] * 4 + [429] * 2
        other = await there.guest(MAC_B, address="127.0.0.2")
        assert await other.request(NAME) == (200, b"vm-b.novalocal")


async def test_a_banned_client_gets_its_response_immediately_after_its_port_is_added() -> None:
    async with cloud(ports=[B_AT_2], rate_limit=STRICT) as there:
        early, limiter = await there.guest(MAC_A), there.service.unknown_clients
        assert limiter is not None
        assert [(await early.request(NAME))[0] for _ in range(6)] == [404] * 4 + [429] * 2
        there.mirror.publish(B_AT_2, A_AT_1)
        await there.until(lambda: limiter.wait_seconds("network:n1", MAC_A, "127.0.0.1") == 0)
        assert await early.request(NAME) == (200, b"vm-a.novalocal")
        assert await (await there.guest(MAC_A)).request(NAME) == (200, b"vm-a.novalocal")


async def test_requests_with_503_are_not_counted() -> None:
    """The control API is unavailable during many requests. The client is not banned for them when the API is back."""
    control, policy = FakeControl(unavailable=True), LookupPolicy(hold_seconds=0.001)
    async with cloud(control=control, rate_limit=STRICT, policy=policy) as there:
        early = await there.guest(MAC_A)
        assert [(await early.request(NAME))[0] for _ in range(10)] == [503] * 10
        control.real, control.unavailable = [A_AT_1], False
        status = 503
        async with asyncio.timeout(HANG_SECONDS):
            while status == 503:  # the failure of the control API is cached for a short time
                status, _ = await early.request(NAME)
        assert status == 200


async def test_behind_a_router_a_client_with_the_same_mac_on_another_network_bans_only_itself() -> None:
    """Two projects have networks at one router, and each chooses the MACs of its own ports."""
    twin = replace(B_AT_2, network_id="n2", mac_address=MAC_A)
    legs = [leg("n1"), leg("n2")]
    async with cloud(ports=[A_AT_1, twin, *legs], listeners=("router:r1",), rate_limit=STRICT, per_peer=6) as there:
        for _ in range(5):
            response = await (await there.guest(MAC_A, listener="router:r1", address="127.0.0.2")).request_last(
                b"\x01\r\n\r\n"
            )
        assert response.startswith(b"HTTP/1.1 429 ")
        for _ in range(6):
            victim = await there.guest(MAC_A, listener="router:r1")
        assert await victim.request(NAME) == (200, b"vm-a.novalocal")
