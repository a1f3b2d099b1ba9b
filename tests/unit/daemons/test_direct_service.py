"""The agent that answers guests itself, over the loopback: who asks, from memory or from elsewhere, and how often."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from tests.unit.daemons.direct_cloud import (
    MAC_A,
    MAC_B,
    SECRET,
    A,
    B,
    FakeControl,
    cloud,
    instance,
    port,
)
from tests.waiting import HANG_SECONDS

from openimds.agents.metadata.belief import Belief
from openimds.config.values import RateLimit
from openimds.http.messages import Request
from openimds.identity.signature import sign
from openimds.resources.network import Port

NAME = "/latest/meta-data/hostname"
A_AT_1 = port(A, MAC_A, "127.0.0.1")
B_AT_2 = port(B, MAC_B, "127.0.0.2")


def leg(network: str, router: str = "r1") -> Port:
    return Port(
        id=f"leg-{network}",
        network_id=network,
        project_id="p1",
        mac_address="fa:16:3e:ff:ff:01",
        device_id=router,
        device_owner="network:router_interface",
    )


def run(coming: Coroutine[Any, Any, None]) -> None:
    uvloop.run(coming)


# Who asks -----------------------------------------------------------------------------------------------------------


def test_a_guest_is_answered_from_memory() -> None:
    async def play() -> None:
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

    run(play())


def test_what_a_guest_asked_before_is_prepared_for_its_next_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Software that boots opens one for each request."""

    async def play() -> None:
        async with cloud(ports=[A_AT_1, B_AT_2]) as there:
            read: list[str] = []
            answer = there.service.answer

            def reads(request: Request) -> Any:
                read.append(request.mac)
                return answer(request)

            monkeypatch.setattr(there.service, "answer", reads)
            for _ in range(3):
                assert await (await there.guest(MAC_A)).ask(NAME) == (200, b"vm-a.novalocal")
            assert read == [MAC_A]
            assert await (await there.guest(MAC_B, address="127.0.0.2")).ask(NAME) == (200, b"vm-b.novalocal")
            assert read == [MAC_A, MAC_B]

    run(play())


def test_an_address_that_moved_is_never_answered_with_the_old_owners_data() -> None:
    """The new owner asks before the news is here, on the same address, with the very same bytes."""

    async def play() -> None:
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

    run(play())


def test_a_binding_ends_with_its_port_also_for_repeats() -> None:
    async def play() -> None:
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

    run(play())


def test_two_ports_or_none_are_nobody_and_the_log_says_why() -> None:
    async def play() -> None:
        twin = replace(A_AT_1, id="twin", device_id=B)
        async with cloud(ports=[A_AT_1, twin]) as there:
            guest = await there.guest(MAC_A)
            assert (await guest.ask(NAME))[0] == 404
            assert (await guest.ask("/"))[0] == 404
            stranger = await there.guest("fa:16:3e:00:00:99")
            assert (await stranger.ask(NAME))[0] == 404
            assert [line["outcome"] for line in there.lines.facts] == ["several", "several", "none"]
            assert "more than one port" in str(there.lines.facts[0]["reason"])

    run(play())


def test_an_unknown_guest_costs_one_look_however_often_it_asks() -> None:
    async def play() -> None:
        async with cloud() as there:
            guests = [await there.guest(MAC_B) for _ in range(10)]
            answers = await asyncio.gather(*(guest.ask(NAME) for guest in guests))
            assert {status for status, _body in answers} == {404}
            assert there.control.looks == 1

    run(play())


def test_a_fresh_port_is_waited_for() -> None:
    """The control API is away, and the news comes while the request is held."""

    async def play() -> None:
        async with cloud() as there:
            there.control.away = True
            guest = await there.guest(MAC_A)
            await guest.send(NAME)
            await there.until(lambda: there.control.looks > 0)
            there.mirror.hear(A_AT_1)
            assert await guest.read() == (200, b"vm-a.novalocal")

    run(play())


def test_a_port_that_no_instance_has_yet_is_waited_for() -> None:
    async def play() -> None:
        early = replace(A_AT_1, device_id="", device_owner="")
        async with cloud(ports=[early]) as there:
            guest = await there.guest(MAC_A)
            await guest.send(NAME)
            await asyncio.sleep(0)
            there.mirror.hear(A_AT_1)
            assert await guest.read() == (200, b"vm-a.novalocal")

    run(play())


def test_who_stays_unknown_is_told_to_ask_again() -> None:
    async def play() -> None:
        async with cloud(belief=Belief(hold_seconds=0.05)) as there:
            there.control.away = True
            guest = await there.guest(MAC_A)
            assert (await guest.ask(NAME))[0] == 503
            assert b"Retry-After: 1" in guest.head
            assert there.lines.facts[0]["outcome"] == "unknown"

    run(play())


def test_without_the_packet_the_neighbour_table_tells_the_mac_each_time() -> None:
    async def play() -> None:
        async with cloud(ports=[A_AT_1]) as there:
            guest = await there.guest("")
            assert [await guest.ask(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
            there.control.real = []  # and it is not in the table any more
            assert (await guest.ask(NAME))[0] == 503

    run(play())


def test_known_guests_are_served_while_everything_else_is_away() -> None:
    async def play() -> None:
        async with cloud(ports=[A_AT_1]) as there:
            guest = await there.guest(MAC_A)
            assert await guest.ask(NAME) == (200, b"vm-a.novalocal")
            there.control.away = there.control.records_away = there.api.away = True
            there.mirror.connected = False
            assert await guest.ask(NAME) == (200, b"vm-a.novalocal")
            assert await guest.ask("/latest/meta-data/instance-id") == (200, b"i-00000001")

    run(play())


def test_an_instance_that_is_another_projects_now_is_not_told_to_the_ports_project() -> None:
    """On a connection that is kept, with the same bytes; and its port alone does not bring the old record back."""

    async def play() -> None:
        async with cloud(ports=[A_AT_1]) as there:
            guest = await there.guest(MAC_A)
            assert [await guest.ask(NAME) for _ in range(3)] == [(200, b"vm-a.novalocal")] * 3
            there.control.change(replace(instance(A, "theirs"), project_id="p2"))
            await there.until(lambda: len(there.service._records) == 0)
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

    run(play())


def test_what_was_not_kept_up_for_too_long_is_not_told_any_longer() -> None:
    """Who asks: 503. What a record says: the metadata API is asked instead."""

    async def play() -> None:
        async with cloud(ports=[A_AT_1], belief=Belief(max_age_seconds=300, hold_seconds=0.05)) as there:
            guest = await there.guest(MAC_A)
            assert await guest.ask(NAME) == (200, b"vm-a.novalocal")
            there.control.age_seconds = 301
            there.control.change(instance(A, "renamed"))
            await there.until(lambda: len(there.service._records) == 0)
            await guest.ask(NAME)
            assert len(there.api.asked) == 1
            there.control.away, there.mirror.age_seconds = True, 301
            assert (await guest.ask(NAME))[0] == 503
            assert b"Retry-After: 1" in guest.head
            assert len(there.api.asked) == 1

    run(play())


# What it is told ----------------------------------------------------------------------------------------------------


def test_a_change_shows_in_the_next_reads() -> None:
    async def play() -> None:
        async with cloud(ports=[A_AT_1]) as there:
            guest = await there.guest(MAC_A)
            await guest.ask(NAME)
            there.control.change(instance(A, "renamed"))
            async with asyncio.timeout(20):
                while await guest.ask(NAME) != (200, b"renamed.novalocal"):  # noqa: ASYNC110 - with a deadline
                    await asyncio.sleep(0.01)

    run(play())


def test_every_read_of_meta_data_has_a_seed_of_its_own() -> None:
    async def play() -> None:
        async with cloud(ports=[A_AT_1]) as there:
            guest = await there.guest(MAC_A)
            seeds = {
                json.loads((await guest.ask("/openstack/latest/meta_data.json"))[1])["random_seed"] for _ in range(5)
            }
            assert len(seeds) == 5

    run(play())


def test_a_cloud_without_records_is_always_asked_upstream() -> None:
    async def play() -> None:
        control = FakeControl(offered=False)
        async with cloud(ports=[A_AT_1], control=control) as there:
            guest = await there.guest(MAC_A)
            forged = ("X-Instance-ID: " + B, "X-Forwarded-For: 127.0.0.2", "X-Tenant-ID: p2")
            assert await guest.ask(NAME, "GET", *forged) == (200, b"from the API 1")
            assert await guest.ask(NAME) == (200, b"from the API 2")
            _method, target, headers, _body = there.api.asked[0]
            assert target == NAME.encode()
            assert headers[b"x-instance-id"] == A.encode()
            assert headers[b"x-instance-id-signature"] == sign(SECRET, A).encode()
            assert headers[b"x-tenant-id"] == b"p1"
            assert headers[b"x-forwarded-for"] == b"127.0.0.1"
            assert headers[b"x-openimds-guest-forwarded"] == b"1"
            assert there.lines.facts[0]["forwarded"] is True
            assert headers[b"x-openstack-request-id"].decode() == there.lines.facts[0]["request_id"]
            there.api.away = True
            assert (await guest.ask(NAME))[0] == 503

    run(play())


def test_passwords_and_vendors_are_the_controllers() -> None:
    async def play() -> None:
        control = FakeControl(dynamic_vendor_data=True)
        async with cloud(ports=[A_AT_1], control=control) as there:
            guest = await there.guest(MAC_A)
            assert await guest.ask("/openstack/latest/password", "POST", body=b"secret") == (200, b"from the API 1")
            assert await guest.ask("/openstack/latest/vendor_data2.json") == (200, b"from the API 2")
            assert await guest.ask(NAME) == (200, b"vm-a.novalocal")
            assert [(method, body) for method, _target, _headers, body in there.api.asked] == [
                ("POST", b"secret"),
                ("GET", b""),
            ]

    run(play())


def test_a_password_is_shown_to_whoever_asks_right_after_it_was_taken() -> None:
    async def play() -> None:
        async with cloud(ports=[A_AT_1]) as there:
            guest = await there.guest(MAC_A)
            assert await guest.ask("/openstack/latest/password") == (200, b"")
            there.control.instances[A] = replace(there.control.instances[A], password="secret")  # no news of it yet
            assert (await guest.ask("/openstack/latest/password", "POST", body=b"secret"))[0] == 200
            assert await guest.ask("/openstack/latest/password") == (200, b"secret")

    run(play())


def test_what_only_a_namespace_proxy_may_say_is_not_a_guests_to_say() -> None:
    async def play() -> None:
        said = ("X-Openimds-Guest-Forwarded: 1", "X-aws-ec2-metadata-token-ttl-seconds: 60", "Content-Length: 0")
        async with cloud(ports=[A_AT_1]) as there:
            guest = await there.guest(MAC_A)
            assert (await guest.ask("/latest/api/token", "PUT", *said))[0] == 200
        async with cloud(ports=[A_AT_1], control=FakeControl(offered=False)) as there:
            guest = await there.guest(MAC_A)
            await guest.ask("/latest/api/token", "PUT", *said)
            assert b"x-openimds-guest-forwarded" not in there.api.asked[0][2]

    run(play())


def test_the_same_question_under_way_is_asked_once_and_seeds_are_not_shared() -> None:
    async def play() -> None:
        async with cloud(ports=[A_AT_1, B_AT_2], control=FakeControl(offered=False)) as there:
            there.api.open.clear()
            same = [await there.guest(MAC_A) for _ in range(3)]
            other = await there.guest(MAC_B, address="127.0.0.2")
            seeded = [await there.guest(MAC_A) for _ in range(2)]
            for guest in (*same, other):
                await guest.send("/latest/user-data")
            for guest in seeded:
                await guest.send("/openstack/latest/meta%5Fdata.json")
            await there.until(lambda: len(there.api.asked) >= 4)
            there.api.open.set()
            bodies = [(await guest.read())[1] for guest in (*same, other, *seeded)]
            assert len(set(bodies[:3])) == 1
            assert len(set(bodies)) == 4
            assert len(there.api.asked) == 4
            ids = {guest.head.lower().split(b"x-openstack-request-id: ")[1].split(b"\r\n")[0] for guest in same}
            assert len(ids) == 3

    run(play())


# What guests may do -------------------------------------------------------------------------------------------------


def test_a_ports_bucket_is_one_for_all_its_addresses_and_repeats() -> None:
    async def play() -> None:
        limit = RateLimit(
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

    run(play())


def test_strict_requests() -> None:
    async def play() -> None:
        async with cloud(ports=[A_AT_1], strict_hosts=("169.254.169.254",)) as there:
            guest = await there.guest(MAC_A)
            assert (await guest.ask(NAME))[0] == 200
            assert (await guest.ask(NAME, "GET", "X-Forwarded-For: 1.2.3.4"))[0] == 403
            assert (await guest.ask("/", "GET", "x_instance_id: " + B))[0] == 403

    run(play())


def test_a_token_goes_one_hop_and_its_header_is_not_shown() -> None:
    async def play() -> None:
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

    run(play())


def test_a_forwarded_token_keeps_its_hop_limit() -> None:
    async def play() -> None:
        async with cloud(ports=[A_AT_1], control=FakeControl(offered=False)) as there:
            there.api.headers = ((b"X-Openimds-Hop-Limit", b"3"), (b"Content-Type", b"text/plain"))
            guest = await there.guest(MAC_A)
            assert (await guest.ask("/latest/api/token", "PUT", "Content-Length: 0"))[0] == 200
            assert there.sockets[0].getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 3
            assert b"hop-limit" not in guest.head.lower()

    run(play())


STRICT = RateLimit(
    ip_versions=frozenset({4, 6}), base_window_seconds=600, base_requests=3, burst_window_seconds=600, burst_requests=3
)


@pytest.mark.parametrize(
    ("malformed", "status"),
    [(b"GET /x\x01 HTTP/1.1\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n", b"403")],
)
def test_malformed_requests_are_counted_and_others_are_not_their_victims(malformed: bytes, status: bytes) -> None:
    """After so many, none of this guest's new connections or requests are read; what is another's is answered."""

    async def play() -> None:
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

    run(play())


def test_requests_of_whom_nobody_knows_are_counted() -> None:
    async def play() -> None:
        async with cloud(ports=[B_AT_2], rate_limit=STRICT) as there:
            stranger = await there.guest(MAC_A)
            assert [(await stranger.ask(NAME))[0] for _ in range(6)] == [404] * 4 + [429] * 2
            other = await there.guest(MAC_B, address="127.0.0.2")
            assert await other.ask(NAME) == (200, b"vm-b.novalocal")

    run(play())


def test_who_was_nobody_and_has_a_port_now_is_answered_at_once() -> None:
    async def play() -> None:
        async with cloud(ports=[B_AT_2], rate_limit=STRICT) as there:
            early = await there.guest(MAC_A)
            assert [(await early.ask(NAME))[0] for _ in range(6)] == [404] * 4 + [429] * 2
            there.mirror.hear(B_AT_2, A_AT_1)
            await there.until(lambda: there.service.strangers.wait_seconds("network:n1", MAC_A, "127.0.0.1") == 0)
            assert await early.ask(NAME) == (200, b"vm-a.novalocal")
            assert await (await there.guest(MAC_A)).ask(NAME) == (200, b"vm-a.novalocal")

    run(play())


def test_not_yet_is_not_counted() -> None:
    """The control API is away for as long as many requests take; when it is back, nobody has to wait for having asked."""

    async def play() -> None:
        control, belief = FakeControl(away=True), Belief(hold_seconds=0.001)
        async with cloud(control=control, rate_limit=STRICT, belief=belief) as there:
            early = await there.guest(MAC_A)
            assert [(await early.ask(NAME))[0] for _ in range(10)] == [503] * 10
            control.real, control.away = [A_AT_1], False
            status = 503
            async with asyncio.timeout(HANG_SECONDS):
                while status == 503:  # what the control API was a moment ago is remembered for a moment
                    status, _ = await early.ask(NAME)
            assert status == 200

    run(play())


def test_behind_a_router_another_networks_guest_of_the_same_mac_locks_nobody_out() -> None:
    """Two projects' networks at one router: each may choose the MACs of its own ports."""

    async def play() -> None:
        twin = replace(B_AT_2, network_id="n2", mac_address=MAC_A)
        legs = [leg("n1"), leg("n2")]
        async with cloud(ports=[A_AT_1, twin, *legs], listeners=("router:r1",), rate_limit=STRICT, per_peer=6) as there:
            for _ in range(5):
                said = await (await there.guest(MAC_A, listener="router:r1", address="127.0.0.2")).ask_last(
                    b"\x01\r\n\r\n"
                )
            assert said.startswith(b"HTTP/1.1 429 ")
            for _ in range(6):
                victim = await there.guest(MAC_A, listener="router:r1")
            assert await victim.ask(NAME) == (200, b"vm-a.novalocal")

    run(play())
