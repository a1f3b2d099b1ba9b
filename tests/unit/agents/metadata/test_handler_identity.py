"""The agent that answers guests itself, over the loopback: who asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.agents.metadata.direct_cloud import MAC_A, MAC_B, A, B, cloud, instance, port
from tests.unit.agents.metadata.direct_guests import A_AT_1, B_AT_2, NAME

from openimds.agents.metadata.lookup.resolver import LookupPolicy
from openimds.http.messages import Request


async def test_a_guest_is_answered_from_memory() -> None:
    async with cloud(ports=[A_AT_1, B_AT_2]) as there:
        guest = await there.guest(MAC_A)
        for _ in range(5):
            assert await guest.ask(NAME) == (200, b"vm-a.novalocal")
        other = await there.guest(MAC_B, address="127.0.0.2")
        assert await other.ask(NAME) == (200, b"vm-b.novalocal")
        assert there.control.asked == [A, B]
        assert there.api.asked == []
        line = there.lines.facts[0]
        assert (line["network_id"], line["source"], line["instance_id"]) == ("n1", "127.0.0.1", A)


async def test_what_a_guest_asked_before_is_prepared_for_its_next_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Software that boots opens one for each request."""

    async with cloud(ports=[A_AT_1, B_AT_2]) as there:
        read: list[str] = []
        answer = there.service.handle

        def reads(request: Request) -> Any:
            read.append(request.mac)
            return answer(request)

        monkeypatch.setattr(there.service, "handle", reads)
        for _ in range(3):
            assert await (await there.guest(MAC_A)).ask(NAME) == (200, b"vm-a.novalocal")
        assert read == [MAC_A]
        assert await (await there.guest(MAC_B, address="127.0.0.2")).ask(NAME) == (200, b"vm-b.novalocal")
        assert read == [MAC_A, MAC_B]


async def test_an_address_that_moved_is_never_answered_with_the_old_owners_data() -> None:
    """The new owner asks before the news is here, on the same address, with the very same bytes."""

    async with cloud(ports=[A_AT_1]) as there:
        old = await there.guest(MAC_A)
        assert [await old.ask(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
        moved = port(B, MAC_B, "127.0.0.1")
        there.control.real = [moved]  # the mirror has not heard
        new = await there.guest(MAC_B)
        assert await new.ask(NAME) == (200, b"vm-b.novalocal")
        there.mirror.hear(moved)
        assert (await old.ask(NAME))[0] == 404  # nor the old one with the new one's
        assert await new.ask(NAME) == (200, b"vm-b.novalocal")


async def test_a_binding_ends_with_its_port_also_for_repeats() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        assert [await guest.ask(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
        rebound = replace(A_AT_1, device_id=B)
        there.control.real = [rebound]
        there.mirror.hear(rebound)
        assert await guest.ask(NAME) == (200, b"vm-b.novalocal")
        there.control.real = []
        there.mirror.hear()
        assert (await guest.ask(NAME))[0] == 404


async def test_two_ports_or_none_are_nobody_and_the_log_says_why() -> None:
    twin = replace(A_AT_1, id="twin", device_id=B)
    async with cloud(ports=[A_AT_1, twin]) as there:
        guest = await there.guest(MAC_A)
        assert (await guest.ask(NAME))[0] == 404
        assert (await guest.ask("/"))[0] == 404
        stranger = await there.guest("fa:16:3e:00:00:99")
        assert (await stranger.ask(NAME))[0] == 404
        assert [line["outcome"] for line in there.lines.facts] == ["several", "several", "none"]
        assert "more than one port" in str(there.lines.facts[0]["reason"])


async def test_an_unknown_guest_costs_one_look_however_often_it_asks() -> None:
    async with cloud() as there:
        guests = [await there.guest(MAC_B) for _ in range(10)]
        answers = await asyncio.gather(*(guest.ask(NAME) for guest in guests))
        assert {status for status, _body in answers} == {404}
        assert there.control.looks == 1


async def test_a_fresh_port_is_waited_for() -> None:
    """The control API is away, and the news comes while the request is held."""

    async with cloud() as there:
        there.control.away = True
        guest = await there.guest(MAC_A)
        await guest.send(NAME)
        await there.until(lambda: there.control.looks > 0)
        there.mirror.hear(A_AT_1)
        assert await guest.read() == (200, b"vm-a.novalocal")


async def test_a_port_that_no_instance_has_yet_is_waited_for() -> None:
    early = replace(A_AT_1, device_id="", device_owner="")
    async with cloud(ports=[early]) as there:
        guest = await there.guest(MAC_A)
        await guest.send(NAME)
        await asyncio.sleep(0)
        there.mirror.hear(A_AT_1)
        assert await guest.read() == (200, b"vm-a.novalocal")


async def test_who_stays_unknown_is_told_to_ask_again() -> None:
    async with cloud(policy=LookupPolicy(hold_seconds=0.05)) as there:
        there.control.away = True
        guest = await there.guest(MAC_A)
        assert (await guest.ask(NAME))[0] == 503
        assert b"Retry-After: 1" in guest.head
        assert there.lines.facts[0]["outcome"] == "unknown"


async def test_without_the_packet_the_neighbour_table_tells_the_mac_each_time() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest("")
        assert [await guest.ask(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
        there.control.real = []  # and it is not in the table any more
        assert (await guest.ask(NAME))[0] == 503


async def test_known_guests_are_served_while_everything_else_is_away() -> None:
    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        assert await guest.ask(NAME) == (200, b"vm-a.novalocal")
        there.control.away = there.control.records_away = there.api.away = True
        there.mirror.connected = False
        assert await guest.ask(NAME) == (200, b"vm-a.novalocal")
        assert await guest.ask("/latest/meta-data/instance-id") == (200, b"i-00000001")


async def test_an_instance_that_is_another_projects_now_is_not_told_to_the_ports_project() -> None:
    """On a connection that is kept, with the same bytes; and its port alone does not bring the old record back."""

    async with cloud(ports=[A_AT_1]) as there:
        guest = await there.guest(MAC_A)
        assert [await guest.ask(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
        there.control.change(replace(instance(A, "theirs"), project_id="p2"))
        await there.until(lambda: len(there.service.records.cache) == 0)
        assert (await guest.ask(NAME))[0] == 404
        assert (await (await there.guest(MAC_A)).ask(NAME))[0] == 404
        assert "another project" in str(there.lines.facts[-1]["reason"])
        theirs = replace(A_AT_1, project_id="p2")
        there.control.real = [theirs]
        there.mirror.hear(theirs)
        assert await guest.ask(NAME) == (200, b"theirs.novalocal")
        there.mirror.hear(A_AT_1)
        assert (await guest.ask(NAME))[0] == 404
        assert there.api.asked == []


async def test_what_was_not_kept_up_for_too_long_is_not_told_any_longer() -> None:
    """Who asks: 503. What a record says: the metadata API is asked instead."""

    async with cloud(ports=[A_AT_1], policy=LookupPolicy(max_age_seconds=300, hold_seconds=0.05)) as there:
        guest = await there.guest(MAC_A)
        assert await guest.ask(NAME) == (200, b"vm-a.novalocal")
        there.control.age_seconds = 301
        there.control.change(instance(A, "renamed"))
        await there.until(lambda: len(there.service.records.cache) == 0)
        await guest.ask(NAME)
        assert len(there.api.asked) == 1
        there.control.away, there.mirror.age_seconds = True, 301
        assert (await guest.ask(NAME))[0] == 503
        assert b"Retry-After: 1" in guest.head
        assert len(there.api.asked) == 1
