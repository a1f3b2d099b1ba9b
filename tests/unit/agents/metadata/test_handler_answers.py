"""Direct mode over the loopback: responses from the cache and from the metadata API."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from tests.unit.agents.metadata.direct_cloud import MAC_A, MAC_B, SECRET, A, B, FakeControl, cloud, instance
from tests.unit.agents.metadata.direct_guests import A_AT_1, B_AT_2, NAME

from openimds.guest_identity.signature import sign


async def test_a_changed_record_is_in_later_responses() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        await guest.request(NAME)
        there.control.change(instance(A, "renamed"))
        async with asyncio.timeout(20):
            while await guest.request(NAME) != (200, b"renamed.novalocal"):  # noqa: ASYNC110 - with a deadline
                await asyncio.sleep(0.01)


async def test_every_meta_data_response_has_its_own_random_seed() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        seeds = {
            json.loads((await guest.request("/openstack/latest/meta_data.json"))[1])["random_seed"] for _ in range(5)
        }
        assert len(seeds) == 5


async def test_requests_are_forwarded_if_the_cloud_offers_no_records() -> None:
    control = FakeControl(offered=False)
    async with cloud(ports=[A_AT_1], control=control) as there:
        guest = await there.guest(MAC_A)
        forged = ("X-Instance-ID: " + B, "X-Forwarded-For: 127.0.0.2", "X-Tenant-ID: p2")
        assert await guest.request(NAME, "GET", *forged) == (200, b"from the API 1")
        assert await guest.request(NAME) == (200, b"from the API 2")
        _method, target, headers, _body = there.api.requests[0]
        assert target == NAME.encode()
        assert headers[b"x-instance-id"] == A.encode()
        assert headers[b"x-instance-id-signature"] == sign(SECRET, A).encode()
        assert headers[b"x-tenant-id"] == b"p1"
        assert headers[b"x-forwarded-for"] == b"127.0.0.1"
        assert headers[b"x-openimds-guest-forwarded"] == b"1"
        assert there.lines.facts[0]["forwarded"] is True
        assert headers[b"x-openstack-request-id"].decode() == there.lines.facts[0]["request_id"]
        there.api.unavailable = True
        assert (await guest.request(NAME))[0] == 503


async def test_passwords_and_dynamic_vendor_data_are_forwarded() -> None:
    control = FakeControl(dynamic_vendor_data=True)
    async with cloud(ports=[A_AT_1], control=control) as there:
        guest = await there.guest(MAC_A)
        assert await guest.request("/openstack/latest/password", "POST", body=b"secret") == (200, b"from the API 1")
        assert await guest.request("/openstack/latest/vendor_data2.json") == (200, b"from the API 2")
        assert await guest.request(NAME) == (200, b"vm-a.novalocal")
        assert [(method, body) for method, _target, _headers, body in there.api.requests] == [
            ("POST", b"secret"),
            ("GET", b""),
        ]


async def test_a_stored_password_is_in_the_next_response() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        assert await guest.request("/openstack/latest/password") == (200, b"")
        stored = replace(there.control.instances[A], password="secret")
        there.control.instances[A] = stored  # this change sends no event
        assert (await guest.request("/openstack/latest/password", "POST", body=b"secret"))[0] == 200
        assert await guest.request("/openstack/latest/password") == (200, b"secret")


async def test_a_client_cannot_send_the_headers_of_a_namespace_proxy() -> None:
    headers = ("X-Openimds-Guest-Forwarded: 1", "X-aws-ec2-metadata-token-ttl-seconds: 60", "Content-Length: 0")
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        assert (await guest.request("/latest/api/token", "PUT", *headers))[0] == 200
    async with cloud(ports=[A_AT_1], control=FakeControl(offered=False)) as there:
        guest = await there.guest(MAC_A)
        await guest.request("/latest/api/token", "PUT", *headers)
        assert b"x-openimds-guest-forwarded" not in there.api.requests[0][2]


async def test_equal_concurrent_requests_are_forwarded_once_and_seeds_are_not_shared() -> None:
    async with cloud(ports=[A_AT_1, B_AT_2], control=FakeControl(offered=False)) as there:
        there.api.open.clear()
        same = [await there.guest(MAC_A) for _ in range(3)]
        other = await there.guest(MAC_B, address="127.0.0.2")
        seeded = [await there.guest(MAC_A) for _ in range(2)]
        for guest in (*same, other):
            await guest.send("/latest/user-data")
        for guest in seeded:
            await guest.send("/openstack/latest/meta%5Fdata.json")
        await there.until(lambda: len(there.api.requests) >= 4)
        there.api.open.set()
        bodies = [(await guest.read())[1] for guest in (*same, other, *seeded)]
        assert len(set(bodies[:3])) == 1
        assert len(set(bodies)) == 4
        assert len(there.api.requests) == 4
        ids = {guest.head.lower().split(b"x-openstack-request-id: ")[1].split(b"\r\n")[0] for guest in same}
        assert len(ids) == 3
