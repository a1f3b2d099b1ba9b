"""The agent between a real unix socket and a real (small) metadata API."""

from __future__ import annotations

import asyncio
import uuid

import pytest
import uvloop
from structlog.testing import capture_logs
from tests.builders import port
from tests.unit.agents.metadata.agent_stage import (
    FROM_NET1,
    GZIPPED,
    NET1,
    NET2,
    VM1,
    VM2,
    Cloud,
    body_of,
    running,
    status_of,
)
from tests.waiting import HANG_SECONDS

from openimds.agents.metadata.proxy.per_key_limiter import MAX_REQUESTS_PER_CLIENT
from openimds.agents.metadata.signature_check import check_signature
from openimds.agents.metadata.throttled_log import SECRETS_DIFFER
from openimds.guest_identity.headers import values
from openimds.imds.metrics import METRICS


def test_the_same_address_on_two_networks_gets_each_its_own(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            one = await agent.ask("/openstack", *FROM_NET1)
            two = await agent.ask("/openstack", f"X-Neutron-Network-ID: {NET2}", "X-Forwarded-For: ::ffff:10.0.0.5")
            assert body_of(one) == f"{VM1} one 10.0.0.5 GET /openstack ".encode()
            assert body_of(two) == f"{VM2} two 10.0.0.5 GET /openstack ".encode()
            assert b"internal-name" not in one

    uvloop.run(main())


def test_what_stock_neutrons_haproxy_sends(tmp_path):
    """`option forwardfor` appends its X-Forwarded-For behind the guest's own; the other id's header is deleted."""
    request = (
        b"GET /latest/meta-data/ HTTP/1.1\r\nuser-agent: Cloud-Init/22.4.2\r\nhost: 169.254.169.254\r\n"
        b"accept-encoding: gzip, deflate\r\naccept: */*\r\nconnection: close\r\nx-forwarded-for: 10.0.0.66\r\n"
        b"X-Neutron-Network-ID: " + NET1.encode() + b"\r\nX-Forwarded-For: 10.0.0.5\r\n\r\n"
    )

    async def main() -> None:
        async with running(tmp_path) as agent:
            assert body_of(await agent.send(request)).startswith(VM1.encode() + b" one 10.0.0.5 ")

    uvloop.run(main())


def test_a_guests_own_identity_headers_never_pass(tmp_path):
    forged = (
        f"X-Instance-ID: {VM2}",
        f"x_instance_id: {VM2}",
        f"X-INSTANCE_ID: {VM2}",
        "X-Tenant-ID: two",
        "x_tenant_id: two",
        "X-Instance-ID-Signature: 0",
        "X-Metadata-Provider: p",
        "X_Metadata_Provider: p",
        "X-Metadata-Provider-Signature: 0",
        "X-OVN-Network-ID: n",
        f"x_neutron_network_id: {NET2}",
        f"X_Neutron_Router_ID: {NET2}",
        "Forwarded: for=10.0.0.9",
        "X-Real-IP: 10.0.0.9",
        "x_forwarded_for: 10.0.0.9",
    )

    async def main() -> None:
        async with running(tmp_path) as agent:
            assert body_of(await agent.ask("/", *forged, *FROM_NET1)).startswith(f"{VM1} one 10.0.0.5".encode())
            (seen,) = agent.api.seen
            said = b" ".join(name + value for name, value in seen.headers)
            assert VM2.encode() not in said
            assert b"_" not in b" ".join(name for name, _ in seen.headers)
            assert not values(seen.headers, "X-Metadata-Provider")
            assert not values(seen.headers, "X-Neutron-Network-ID")

    uvloop.run(main())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((f"X-Neutron-Network-ID: {NET1}", f"X-Neutron-Router-ID: {NET1}", "X-Forwarded-For: 10.0.0.5"), 400),
        ((f"X-Neutron-Network-ID: {NET1}", f"X-Neutron-Network-ID: {NET2}", "X-Forwarded-For: 10.0.0.5"), 400),
        ((f"X-Neutron-Network-ID: {NET1}",), 400),
        ((f"X-Neutron-Network-ID: {NET1}", "X-Forwarded-For: nonsense"), 400),
        (("X-Forwarded-For: 10.0.0.5",), 404),
        ((f"X-Neutron-Network-ID: {NET1}", "X-Forwarded-For: 10.0.0.6"), 404),
        (("X-Neutron-Network-ID: elsewhere", "X-Forwarded-For: 10.0.0.5"), 404),
        (("X-Neutron-Router-ID: elsewhere", "X-Forwarded-For: 10.0.0.5"), 404),
    ],
)
def test_who_cannot_be_told_is_not_forwarded(tmp_path, headers, status):
    async def main() -> None:
        async with running(tmp_path) as agent:
            assert status_of(await agent.ask("/", *headers)) == status
            assert agent.api.seen == []

    uvloop.run(main())


def test_bodies_pass_both_ways_untouched(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            zipped = await agent.ask("/zipped", *FROM_NET1)
            assert body_of(zipped) == GZIPPED
            assert b"Content-Encoding: gzip" in zipped
            secret = bytes(range(256)) * 20
            posted = await agent.ask("/openstack/latest/password", *FROM_NET1, method="POST", body=secret)
            assert body_of(posted).endswith(b"POST /openstack/latest/password " + secret)
            chunked = (*FROM_NET1, "Transfer-Encoding: chunked")
            request = "\r\n".join(
                ["POST /p HTTP/1.1", "Host: a", "Connection: close", *chunked, "", "3\r\nabc\r\n0\r\n\r\n"]
            )
            assert body_of(await agent.send(request.encode())).endswith(b"POST /p abc")
            assert status_of(await agent.ask("/p", *FROM_NET1, method="POST")) == 411

    uvloop.run(main())


def test_head_has_gets_length_and_no_body(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            got = await agent.ask("/x", *FROM_NET1)
            head = await agent.ask("/x", *FROM_NET1, method="HEAD")
            assert body_of(head) == b""
            assert f"Content-Length: {len(body_of(got)) + len('HEAD') - len('GET')}".encode() in head

    uvloop.run(main())


def test_trace_and_connect_end_here(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            for method in ("TRACE", "CONNECT"):
                answer = await agent.ask("/", *FROM_NET1, method=method)
                assert status_of(answer) == 405
                assert b"Allow: GET, HEAD" in answer
            assert agent.api.seen == []

    uvloop.run(main())


def test_a_metadata_api_that_is_away_is_503_and_said_once(tmp_path):
    async def main() -> None:
        async with running(tmp_path, api_up=False) as agent:
            with capture_logs() as logs:
                for _ in range(3):
                    answer = await agent.ask("/", *FROM_NET1)
                    assert status_of(answer) == 503
                    assert b"Retry-After: 1" in answer
            assert sum("metadata API unavailable" in line["event"] for line in logs) == 1

    uvloop.run(main())


def test_while_nothing_is_known_a_guest_hears_not_yet(tmp_path):
    async def main() -> None:
        async with running(tmp_path, Cloud(ports_by_id={}, connected=False)) as agent:
            answer = await agent.ask("/", *FROM_NET1)
            assert status_of(answer) == 503
            assert b"Retry-After: 1" in answer

    uvloop.run(main())


def test_two_different_secrets_are_said_in_words_once_and_never_shown(tmp_path):
    async def main() -> None:
        async with running(tmp_path, secret="SECRETE_KEY") as agent:
            agent.api.secret = "SECRET_KEY"
            with capture_logs() as logs:
                for _ in range(3):
                    answer = await agent.ask("/", *FROM_NET1)
                    assert status_of(answer) == 403
            complaints = [line for line in logs if line["event"] == SECRETS_DIFFER]
            assert len(complaints) == 1
            assert complaints[0]["log_level"] == "error"
            assert "SECRET_KEY" not in str(logs)
            assert "SECRETE_KEY" not in str(logs)
            agent.service.reload("SECRET_KEY")
            assert status_of(await agent.ask("/", *FROM_NET1)) == 200

    uvloop.run(main())


@pytest.mark.parametrize(("secret", "words"), [("shared", "signature accepted"), ("other", "signature refused")])
def test_the_self_test_says_what_it_found(tmp_path, secret, words):
    async def main() -> None:
        async with running(tmp_path, secret=secret) as agent:
            with capture_logs() as logs:
                await check_signature(agent.upstream, lambda: secret, agent.throttled_log)
            assert words in logs[-1]["event"]

    uvloop.run(main())


def test_one_request_id_is_followed_and_a_request_logged(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            answer = await agent.ask("/openstack", *FROM_NET1, "X-Openstack-Request-Id: req-123")
            without = await agent.ask("/openstack", *FROM_NET1, "X-Openstack-Request-Id: " + "x" * 200)
            await agent.ask("/openstack", *FROM_NET1, 'X-Openstack-Request-Id: r", "forged": "1')
            assert b"X-Openstack-Request-Id: req-123\r\n" in answer
            assert b"X-Openstack-Request-Id: req-" in without
            assert values(agent.api.seen[0].headers, "X-Openstack-Request-Id") == ["req-123"]
            line, _without, forged = agent.log.kept
            assert str(forged["request_id"]).startswith("req-")
            assert line["event"] == "request answered"
            assert line["request_id"] == "req-123"
            assert (line["network_id"], line["source"], line["instance_id"]) == (NET1, "10.0.0.5", VM1)
            assert (line["status"], line["path"]) == (200, "/openstack")
            assert isinstance(line["ms"], float)

    uvloop.run(main())


def test_it_counts(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            await agent.ask("/", *FROM_NET1)
            await agent.ask("/", "X-Forwarded-For: 10.0.0.5")
            METRICS.flush()
            count = agent.registry.get_sample_value
            assert count("openimds_metadata_agent_requests_total", {"status": "200"}) == 1
            assert count("openimds_metadata_agent_requests_total", {"status": "404"}) == 1
            assert count("openimds_metadata_agent_lookups_total", {"outcome": "found"}) == 1
            assert count("openimds_metadata_agent_lookups_total", {"outcome": "none"}) == 1
            assert count("openimds_metadata_agent_upstream_seconds_count") == 1

    uvloop.run(main())


def test_a_burst_of_a_thousand_guests_loses_nothing(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            answers = await asyncio.gather(*(agent.ask(f"/{n}", *FROM_NET1) for n in range(1000)))
            assert {status_of(answer) for answer in answers} == {200}
            assert all(body_of(answer).split()[-1] == f"/{n}".encode() for n, answer in enumerate(answers))

    uvloop.run(main())


def test_what_is_remembered_of_headers_is_never_who_asks(tmp_path):
    """The same bytes again, of another instance's and under another secret: signed anew."""
    cloud = Cloud()

    async def main() -> None:
        async with running(tmp_path, cloud) as agent:
            assert body_of(await agent.ask("/", *FROM_NET1)).startswith(VM1.encode())
            cloud.ports_by_id = {"p1": port("p1", network=NET1, device_id=VM2, project_id="two")}
            assert body_of(await agent.ask("/", *FROM_NET1)).startswith(f"{VM2} two".encode())
            agent.api.secret = "another"
            agent.service.reload("another")
            assert body_of(await agent.ask("/", *FROM_NET1)).startswith(f"{VM2} two".encode())
            cloud.ports_by_id = {}
            assert status_of(await agent.ask("/", *FROM_NET1)) == 404

    uvloop.run(main())


def test_a_guest_with_many_requests_leaves_the_way_open_for_others(tmp_path):
    """One guest fills its share and no more; another is answered while all of the first one's wait; none is lost."""

    async def main() -> None:
        async with running(tmp_path) as agent:
            agent.api.held = asyncio.Event()
            greedy = [asyncio.ensure_future(agent.ask(f"/held/{n}", *FROM_NET1)) for n in range(200)]
            async with asyncio.timeout(HANG_SECONDS):
                await agent.api.full.wait()
                other = await agent.ask("/openstack", f"X-Neutron-Network-ID: {NET2}", "X-Forwarded-For: 10.0.0.5")
            assert body_of(other).startswith(VM2.encode())
            assert sum(request.target.startswith(b"/held") for request in agent.api.seen) == MAX_REQUESTS_PER_CLIENT
            agent.api.held.set()
            assert {status_of(answer) for answer in await asyncio.gather(*greedy)} == {200}

    uvloop.run(main())


def test_an_instance_that_is_gone_is_not_believed_to_have_its_address_any_longer(tmp_path):
    """Without a watch: the metadata API's 404 tells of the change, however long a find may be believed."""
    cloud = Cloud(
        ports_by_id={},
        connected=False,
        found=[port("p1", network=NET1, device_id=str(uuid.uuid4()), project_id="gone")],
    )

    async def main() -> None:
        async with running(tmp_path, cloud) as agent:
            assert status_of(await agent.ask("/", *FROM_NET1)) == 404
            cloud.found = [port("p2", network=NET1, device_id=VM2, project_id="two")]
            assert body_of(await agent.ask("/", *FROM_NET1)).startswith(f"{VM2} two".encode())
            (_, line) = agent.log.kept
            assert line["instance_id"] == VM2

    uvloop.run(main())
