"""Checklist rows 5, 10-12, 14, 20, 21 and 25 in direct mode: the metadata agent listens in the guests' networks."""

from __future__ import annotations

import pytest
from tests.security.instances import ALPHA, BETA
from tests.security.responses import answers
from tests.security.test_identity import FORGED, spellings
from tests.unit.agents.metadata.direct_cloud import MAC_A, MAC_B, FakeControl, cloud, instance, port

from openimds.config.settings import RateLimitOptions

HOSTNAME = "/latest/meta-data/hostname"
HEAD = b"GET /latest/meta-data/hostname HTTP/1.1\r\nHost: 169.254.169.254\r\n"
PORTS = (port(ALPHA.uuid, MAC_A, ALPHA.address), port(BETA.uuid, MAC_B, BETA.address))
LIMIT = RateLimitOptions(
    ip_versions=frozenset({4, 6}),
    base_window_seconds=86400,
    base_requests=28,
    burst_window_seconds=86400,
    burst_requests=28,
)


def control(*, offered: bool = True) -> FakeControl:
    made = FakeControl(offered=offered)
    made.instances = {guest.uuid: instance(guest.uuid, f"name-{guest.uuid}") for guest in (ALPHA, BETA)}
    return made


@pytest.mark.parametrize("offered", [True, False], ids=["served from records", "forwarded"])
@pytest.mark.parametrize("name", FORGED)
async def test_11_12_identity_headers_of_a_guest_are_ignored(name: str, offered: bool) -> None:
    async with cloud(ports=PORTS, control=control(offered=offered)) as there:
        for line in spellings(name):
            guest = await there.guest(MAC_A, address=ALPHA.address)
            raw = await guest.request_last(HEAD + line + b"\r\nConnection: close\r\n\r\n")
            assert raw
            for answer in answers(raw, []):
                assert answer.status in (200, 400), (line, answer)
                assert BETA.uuid.encode() not in answer.body, line
        for _method, _target, headers, _body in there.api.requests:
            assert headers[b"x-instance-id"] == ALPHA.uuid.encode()
            assert headers[b"x-forwarded-for"] == ALPHA.address.encode()
        assert bool(there.api.requests) is not offered


async def test_14_strict_requests_refuse_forged_headers_and_hosts() -> None:
    async with cloud(ports=PORTS, control=control(), strict_hosts=("169.254.169.254",)) as there:
        guest = await there.guest(MAC_A, address=ALPHA.address)
        assert (await guest.request(HOSTNAME))[0] == 200
        for name, value in FORGED.items():
            assert (await guest.request(HOSTNAME, "GET", f"{name}: {value}"))[0] == 403, name
        other = HEAD.replace(b"169.254.169.254", b"evil.example") + b"Connection: close\r\n\r\n"
        assert (await guest.request_last(other)).startswith(b"HTTP/1.1 403")


async def test_10_token_is_invalid_for_the_next_owner_of_the_address() -> None:
    async with cloud(ports=PORTS, control=control()) as there:
        old = await there.guest(MAC_A, address=ALPHA.address)
        ttl = ("X-aws-ec2-metadata-token-ttl-seconds: 600", "Content-Length: 0")
        _status, token = await old.request("/latest/api/token", "PUT", *ttl)
        mine = f"X-aws-ec2-metadata-token: {token.decode()}"
        assert (await old.request(HOSTNAME, "GET", mine))[0] == 200
        moved = (port(BETA.uuid, MAC_B, ALPHA.address),)
        there.control.real = list(moved)
        there.mirror.publish(*moved)
        new = await there.guest(MAC_B, address=ALPHA.address)
        assert (await new.request(HOSTNAME, "GET", mine))[0] == 401
        assert (await old.request(HOSTNAME, "GET", mine))[0] == 404


@pytest.mark.parametrize("connected", [True, False], ids=["current mirror", "outdated mirror"])
async def test_5_25_address_that_does_not_match_the_mac_is_404(connected: bool) -> None:
    async with cloud(ports=PORTS, control=control(), listeners=("network:n1", "network:n2")) as there:
        there.mirror.connected = connected
        spoofing = await there.guest(MAC_A, address=BETA.address)
        assert (await spoofing.request(HOSTNAME))[0] == 404
        outside = await there.guest(MAC_A, address="127.99.99.99")
        assert (await outside.request(HOSTNAME))[0] == 404
        elsewhere = await there.guest(MAC_A, listener="network:n2", address=ALPHA.address)
        assert (await elsewhere.request(HOSTNAME))[0] == 404
        assert {line["outcome"] for line in there.lines.facts} == {"none"}


async def test_20_ipv4_and_ipv6_of_a_port_share_one_bucket() -> None:
    both = port(ALPHA.uuid, MAC_A, "127.0.0.1", "::1")
    async with cloud(ports=[both, PORTS[1]], control=control(), rate_limit=LIMIT, host="::") as there:
        four = await there.guest(MAC_A, address="127.0.0.1")
        six = await there.guest(MAC_A, address="::1")
        for _ in range(14):  # the 28 requests of a boot
            assert (await four.request(HOSTNAME))[0] == 200
            assert (await six.request(HOSTNAME))[0] == 200
        assert (await four.request(HOSTNAME))[0] == 429
        assert (await six.request(HOSTNAME))[0] == 429
        assert b"\r\nRetry-After: " in six.head
        assert (await four.request("/"))[0] == 429
        neighbour = await there.guest(MAC_B, address=BETA.address)
        assert (await neighbour.request(HOSTNAME))[0] == 200


async def test_20_forwarded_requests_count_for_the_rate_limit() -> None:
    async with cloud(ports=PORTS, control=control(offered=False), rate_limit=LIMIT) as there:
        guest = await there.guest(MAC_A, address=ALPHA.address)
        assert [(await guest.request(HOSTNAME))[0] for _ in range(30)] == [200] * 28 + [429] * 2
        assert len(there.api.requests) == 28


async def test_21_connections_are_limited_per_guest_and_network() -> None:
    tenants = ("network:n1", "network:n2")
    async with cloud(ports=PORTS, control=control(), listeners=tenants, per_peer=8) as there:
        for _ in range(8):
            await there.guest(MAC_A, address=ALPHA.address)
        refused = await there.guest(MAC_A, address=ALPHA.address)
        assert (await refused.read())[0] == 503
        neighbour = await there.guest(MAC_A, listener="network:n2", address=ALPHA.address)
        assert (await neighbour.request(HOSTNAME))[0] == 404  # another network: accepted, and not limited by the first


async def test_request_id_of_a_guest_is_ignored() -> None:
    """Otherwise a guest could reuse another guest's id in the log. A repeated request is cached."""
    given = b"req-00000000-0000-4000-8000-000000000000"

    async with cloud(ports=PORTS, control=control()) as there:
        for _repeat in range(3):
            guest = await there.guest(MAC_A, address=ALPHA.address)
            raw = await guest.request_last(
                HEAD + b"X-Openstack-Request-Id: " + given + b"\r\nConnection: close\r\n\r\n"
            )
            assert raw.startswith(b"HTTP/1.1 200 ")
            assert b"req-" in raw
            assert given not in raw
