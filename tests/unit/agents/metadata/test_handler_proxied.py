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

from openimds.agents.metadata.lookup.resolver import LookupPolicy
from openimds.agents.metadata.proxy.per_key_limiter import MAX_REQUESTS_PER_CLIENT
from openimds.agents.metadata.signature_check import check_signature
from openimds.agents.metadata.throttled_log import SECRETS_DIFFER
from openimds.guest_identity.headers import values
from openimds.imds.metrics import METRICS


def test_clients_with_the_same_address_on_two_networks_get_their_own_data(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            one = await agent.request("/openstack", *FROM_NET1)
            two = await agent.request("/openstack", f"X-Neutron-Network-ID: {NET2}", "X-Forwarded-For: ::ffff:10.0.0.5")
            assert body_of(one) == f"{VM1} one 10.0.0.5 GET /openstack ".encode()
            assert body_of(two) == f"{VM2} two 10.0.0.5 GET /openstack ".encode()
            assert b"internal-name" not in one

    uvloop.run(main())


def test_a_request_of_neutrons_haproxy_is_identified(tmp_path):
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


def test_identity_headers_of_a_client_are_not_forwarded(tmp_path):
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
            assert body_of(await agent.request("/", *forged, *FROM_NET1)).startswith(f"{VM1} one 10.0.0.5".encode())
            (request,) = agent.api.requests
            forwarded = b" ".join(name + value for name, value in request.headers)
            assert VM2.encode() not in forwarded
            assert b"_" not in b" ".join(name for name, _ in request.headers)
            assert not values(request.headers, "X-Metadata-Provider")
            assert not values(request.headers, "X-Neutron-Network-ID")

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
def test_a_request_of_an_unidentified_client_is_not_forwarded(tmp_path, headers, status):
    async def main() -> None:
        async with running(tmp_path) as agent:
            assert status_of(await agent.request("/", *headers)) == status
            assert agent.api.requests == []

    uvloop.run(main())


def test_bodies_are_forwarded_unchanged_in_both_directions(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            zipped = await agent.request("/zipped", *FROM_NET1)
            assert body_of(zipped) == GZIPPED
            assert b"Content-Encoding: gzip" in zipped
            secret = bytes(range(256)) * 20
            posted = await agent.request("/openstack/latest/password", *FROM_NET1, method="POST", body=secret)
            assert body_of(posted).endswith(b"POST /openstack/latest/password " + secret)
            chunked = (*FROM_NET1, "Transfer-Encoding: chunked")
            request = "\r\n".join(
                ["POST /p HTTP/1.1", "Host: a", "Connection: close", *chunked, "", "3\r\nabc\r\n0\r\n\r\n"]
            )
            assert body_of(await agent.send(request.encode())).endswith(b"POST /p abc")
            assert status_of(await agent.request("/p", *FROM_NET1, method="POST")) == 411

    uvloop.run(main())


def test_head_response_has_the_length_of_get_and_no_body(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            got = await agent.request("/x", *FROM_NET1)
            head = await agent.request("/x", *FROM_NET1, method="HEAD")
            assert body_of(head) == b""
            assert f"Content-Length: {len(body_of(got)) + len('HEAD') - len('GET')}".encode() in head

    uvloop.run(main())


def test_trace_and_connect_are_not_forwarded(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            for method in ("TRACE", "CONNECT"):
                response = await agent.request("/", *FROM_NET1, method=method)
                assert status_of(response) == 405
                assert b"Allow: GET, HEAD" in response
            assert agent.api.requests == []

    uvloop.run(main())


def test_an_unavailable_metadata_api_gives_503_and_is_logged_once(tmp_path):
    async def main() -> None:
        async with running(tmp_path, is_api_up=False) as agent:
            with capture_logs() as logs:
                for _ in range(3):
                    response = await agent.request("/", *FROM_NET1)
                    assert status_of(response) == 503
                    assert b"Retry-After: 1" in response
            assert sum("metadata API unavailable" in line["event"] for line in logs) == 1

    uvloop.run(main())


def test_a_client_gets_503_while_no_port_is_available(tmp_path):
    async def main() -> None:
        cloud = Cloud(ports_by_id={}, connected=False)
        async with running(tmp_path, cloud, policy=LookupPolicy(hold_seconds=0.05)) as agent:
            response = await agent.request("/", *FROM_NET1)
            assert status_of(response) == 503
            assert b"Retry-After: 1" in response

    uvloop.run(main())


def test_different_secrets_are_logged_once_and_never_shown(tmp_path):
    async def main() -> None:
        async with running(tmp_path, secret="SECRETE_KEY") as agent:
            agent.api.secret = "SECRET_KEY"
            with capture_logs() as logs:
                for _ in range(3):
                    response = await agent.request("/", *FROM_NET1)
                    assert status_of(response) == 403
            errors = [line for line in logs if line["event"] == SECRETS_DIFFER]
            assert len(errors) == 1
            assert errors[0]["log_level"] == "error"
            assert "SECRET_KEY" not in str(logs)
            assert "SECRETE_KEY" not in str(logs)
            agent.service.reload("SECRET_KEY")
            assert status_of(await agent.request("/", *FROM_NET1)) == 200

    uvloop.run(main())


@pytest.mark.parametrize(("secret", "words"), [("shared", "signature accepted"), ("other", "signature refused")])
def test_the_signature_check_logs_its_result(tmp_path, secret, words):
    async def main() -> None:
        async with running(tmp_path, secret=secret) as agent:
            with capture_logs() as logs:
                await check_signature(agent.upstream, lambda: secret, agent.throttled_log)
            assert words in logs[-1]["event"]

    uvloop.run(main())


def test_a_request_is_logged_with_its_request_id(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            response = await agent.request("/openstack", *FROM_NET1, "X-Openstack-Request-Id: req-123")
            without = await agent.request("/openstack", *FROM_NET1, "X-Openstack-Request-Id: " + "x" * 200)
            await agent.request("/openstack", *FROM_NET1, 'X-Openstack-Request-Id: r", "forged": "1')
            assert b"X-Openstack-Request-Id: req-123\r\n" in response
            assert b"X-Openstack-Request-Id: req-" in without
            assert values(agent.api.requests[0].headers, "X-Openstack-Request-Id") == ["req-123"]
            line, _without, forged = agent.log.lines
            assert str(forged["request_id"]).startswith("req-")
            assert line["event"] == "request answered"
            assert line["request_id"] == "req-123"
            assert (line["network_id"], line["source"], line["instance_id"]) == (NET1, "10.0.0.5", VM1)
            assert (line["status"], line["path"]) == (200, "/openstack")
            assert isinstance(line["ms"], float)

    uvloop.run(main())


def test_requests_and_lookups_are_counted(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            await agent.request("/", *FROM_NET1)
            await agent.request("/", "X-Forwarded-For: 10.0.0.5")
            METRICS.flush()
            count = agent.registry.get_sample_value
            assert count("openimds_metadata_agent_requests_total", {"status": "200"}) == 1
            assert count("openimds_metadata_agent_requests_total", {"status": "404"}) == 1
            assert count("openimds_metadata_agent_lookups_total", {"outcome": "found"}) == 1
            assert count("openimds_metadata_agent_lookups_total", {"outcome": "none"}) == 1
            assert count("openimds_metadata_agent_upstream_seconds_count") == 1

    uvloop.run(main())


def test_a_burst_of_a_thousand_requests_loses_no_response(tmp_path):
    async def main() -> None:
        async with running(tmp_path) as agent:
            responses = await asyncio.gather(*(agent.request(f"/{n}", *FROM_NET1) for n in range(1000)))
            assert {status_of(response) for response in responses} == {200}
            assert all(body_of(response).split()[-1] == f"/{n}".encode() for n, response in enumerate(responses))

    uvloop.run(main())


def test_cached_headers_do_not_decide_the_client(tmp_path):
    """The same bytes are signed again after the port is bound to another instance, and after a change of the secret."""
    cloud = Cloud()

    async def main() -> None:
        async with running(tmp_path, cloud) as agent:
            assert body_of(await agent.request("/", *FROM_NET1)).startswith(VM1.encode())
            cloud.ports_by_id = {"p1": port("p1", network=NET1, device_id=VM2, project_id="two")}
            assert body_of(await agent.request("/", *FROM_NET1)).startswith(f"{VM2} two".encode())
            agent.api.secret = "another"
            agent.service.reload("another")
            assert body_of(await agent.request("/", *FROM_NET1)).startswith(f"{VM2} two".encode())
            cloud.ports_by_id = {}
            assert status_of(await agent.request("/", *FROM_NET1)) == 404

    uvloop.run(main())


def test_a_client_with_many_requests_does_not_block_other_clients(tmp_path):
    """One client fills its own slots. Another client gets its response meanwhile, and no request is lost."""

    async def main() -> None:
        async with running(tmp_path) as agent:
            agent.api.held = asyncio.Event()
            many = [asyncio.ensure_future(agent.request(f"/held/{n}", *FROM_NET1)) for n in range(200)]
            async with asyncio.timeout(HANG_SECONDS):
                await agent.api.full.wait()
                other = await agent.request("/openstack", f"X-Neutron-Network-ID: {NET2}", "X-Forwarded-For: 10.0.0.5")
            assert body_of(other).startswith(VM2.encode())
            assert sum(request.target.startswith(b"/held") for request in agent.api.requests) == MAX_REQUESTS_PER_CLIENT
            agent.api.held.set()
            assert {status_of(response) for response in await asyncio.gather(*many)} == {200}

    uvloop.run(main())


def test_a_404_of_the_metadata_api_removes_the_cached_port(tmp_path):
    """Without a watch, the 404 of a deleted instance ends the cached result before its TTL."""
    cloud = Cloud(
        ports_by_id={},
        connected=False,
        found=[port("p1", network=NET1, device_id=str(uuid.uuid4()), project_id="gone")],
    )

    async def main() -> None:
        async with running(tmp_path, cloud) as agent:
            assert status_of(await agent.request("/", *FROM_NET1)) == 404
            cloud.found = [port("p2", network=NET1, device_id=VM2, project_id="two")]
            assert body_of(await agent.request("/", *FROM_NET1)).startswith(f"{VM2} two".encode())
            (_, line) = agent.log.lines
            assert line["instance_id"] == VM2

    uvloop.run(main())
