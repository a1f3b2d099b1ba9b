"""Direct mode over the loopback: the client of a request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.agents.metadata.direct_cloud import MAC_A, MAC_B, A, B, cloud, instance, port
from tests.unit.agents.metadata.direct_guests import A_AT_1, B_AT_2, NAME

from openimds.agents.metadata.lookup.resolver import LookupPolicy
from openimds.http.messages import Request


async def test_a_client_gets_its_response_from_the_cache() -> None:
    async with cloud(ports=[A_AT_1, B_AT_2]) as there:
        guest = await there.guest(MAC_A)
        for _ in range(5):
            assert await guest.request(NAME) == (200, b"vm-a.novalocal")
        other = await there.guest(MAC_B, address="127.0.0.2")
        assert await other.request(NAME) == (200, b"vm-b.novalocal")
        assert there.control.requested_ids == [A, B]
        assert there.api.requests == []
        line = there.lines.facts[0]
        assert (line["network_id"], line["source"], line["instance_id"]) == ("n1", "127.0.0.1", A)


async def test_a_cached_response_is_used_for_the_next_connection_of_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Booting software opens a connection for each request."""
    async with cloud(ports=[A_AT_1, B_AT_2]) as there:
        handled: list[str] = []
        handle = there.service.handle

        def recorded(request: Request) -> Any:
            handled.append(request.mac)
            return handle(request)

        monkeypatch.setattr(there.service, "handle", recorded)
        for _ in range(3):
            assert await (await there.guest(MAC_A)).request(NAME) == (200, b"vm-a.novalocal")
        assert handled == [MAC_A]
        assert await (await there.guest(MAC_B, address="127.0.0.2")).request(NAME) == (200, b"vm-b.novalocal")
        assert handled == [MAC_A, MAC_B]


async def test_a_moved_address_never_gets_the_data_of_its_former_owner() -> None:
    """The new owner sends the same bytes from the same address before the event arrives."""
    async with cloud(ports=[A_AT_1]) as there:
        old = await there.guest(MAC_A)
        assert [await old.request(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
        moved = port(B, MAC_B, "127.0.0.1")
        there.control.real = [moved]  # the mirror has no event of it
        new = await there.guest(MAC_B)
        assert await new.request(NAME) == (200, b"vm-b.novalocal")
        there.mirror.publish(moved)
        assert (await old.request(NAME))[0] == 404  # the former owner does not get the data of the new one
        assert await new.request(NAME) == (200, b"vm-b.novalocal")


async def test_a_binding_ends_with_its_port_for_replayed_responses_too() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        assert [await guest.request(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
        rebound = replace(A_AT_1, device_id=B)
        there.control.real = [rebound]
        there.mirror.publish(rebound)
        assert await guest.request(NAME) == (200, b"vm-b.novalocal")
        there.control.real = []
        there.mirror.publish()
        assert (await guest.request(NAME))[0] == 404


async def test_a_client_with_two_ports_or_none_is_not_found_and_the_reason_is_logged() -> None:
    twin = replace(A_AT_1, id="twin", device_id=B)
    async with cloud(ports=[A_AT_1, twin]) as there:
        guest = await there.guest(MAC_A)
        assert (await guest.request(NAME))[0] == 404
        assert (await guest.request("/"))[0] == 404
        unknown = await there.guest("fa:16:3e:00:00:99")
        assert (await unknown.request(NAME))[0] == 404
        assert [line["outcome"] for line in there.lines.facts] == ["several", "several", "none"]
        assert "more than one port" in str(there.lines.facts[0]["reason"])


async def test_many_requests_of_an_unknown_client_cost_one_query() -> None:
    async with cloud() as there:
        guests = [await there.guest(MAC_B) for _ in range(10)]
        responses = await asyncio.gather(*(guest.request(NAME) for guest in guests))
        assert {status for status, _body in responses} == {404}
        assert there.control.port_queries == 1


async def test_a_request_is_held_until_its_port_arrives() -> None:
    """The control API is unavailable, and the event arrives while the request is held."""
    async with cloud() as there:
        there.control.unavailable = True
        guest = await there.guest(MAC_A)
        await guest.send(NAME)
        await there.until(lambda: there.control.port_queries > 0)
        there.mirror.publish(A_AT_1)
        assert await guest.read() == (200, b"vm-a.novalocal")


async def test_a_request_is_held_until_its_port_is_bound() -> None:
    early = replace(A_AT_1, device_id="", device_owner="")
    async with cloud(ports=[early]) as there:
        guest = await there.guest(MAC_A)
        await guest.send(NAME)
        await asyncio.sleep(0)
        there.mirror.publish(A_AT_1)
        assert await guest.read() == (200, b"vm-a.novalocal")


async def test_a_client_that_stays_unknown_gets_503_with_retry_after() -> None:
    async with cloud(policy=LookupPolicy(hold_seconds=0.05)) as there:
        there.control.unavailable = True
        guest = await there.guest(MAC_A)
        assert (await guest.request(NAME))[0] == 503
        assert b"Retry-After: 1" in guest.head
        assert there.lines.facts[0]["outcome"] == "unknown"


async def test_without_a_saved_packet_the_mac_of_each_request_is_from_the_neighbour_table() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest("")
        assert [await guest.request(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
        there.control.real = []  # this removes the neighbour entry, too
        assert (await guest.request(NAME))[0] == 503


async def test_cached_clients_get_responses_while_everything_else_is_unavailable() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        assert await guest.request(NAME) == (200, b"vm-a.novalocal")
        there.control.unavailable = there.control.records_unavailable = there.api.unavailable = True
        there.mirror.connected = False
        assert await guest.request(NAME) == (200, b"vm-a.novalocal")
        assert await guest.request("/latest/meta-data/instance-id") == (200, b"i-00000001")


async def test_a_record_of_another_project_than_its_port_is_not_returned() -> None:
    """The connection stays open and the bytes are the same. A change of the port alone does not restore the old record."""
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        assert [await guest.request(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
        there.control.change(replace(instance(A, "theirs"), project_id="p2"))
        await there.until(lambda: len(there.service.records.cache) == 0)
        assert (await guest.request(NAME))[0] == 404
        assert (await (await there.guest(MAC_A)).request(NAME))[0] == 404
        assert "another project" in str(there.lines.facts[-1]["reason"])
        theirs = replace(A_AT_1, project_id="p2")
        there.control.real = [theirs]
        there.mirror.publish(theirs)
        assert await guest.request(NAME) == (200, b"theirs.novalocal")
        there.mirror.publish(A_AT_1)
        assert (await guest.request(NAME))[0] == 404
        assert there.api.requests == []


async def test_data_older_than_the_maximum_age_is_not_used() -> None:
    """Old ports give 503. Requests are forwarded if the records are old."""
    async with cloud(ports=[A_AT_1], policy=LookupPolicy(max_age_seconds=300, hold_seconds=0.05)) as there:
        guest = await there.guest(MAC_A)
        assert await guest.request(NAME) == (200, b"vm-a.novalocal")
        there.control.age_seconds = 301
        there.control.change(instance(A, "renamed"))
        await there.until(lambda: len(there.service.records.cache) == 0)
        await guest.request(NAME)
        assert len(there.api.requests) == 1
        there.control.unavailable, there.mirror.age_seconds = True, 301
        assert (await guest.request(NAME))[0] == 503
        assert b"Retry-After: 1" in guest.head
        assert len(there.api.requests) == 1
