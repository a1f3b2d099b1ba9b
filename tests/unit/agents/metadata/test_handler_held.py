"""haproxy mode: requests of an instance whose record the agent holds get the same bytes as forwarded requests."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry
from tests.unit.agents.metadata.direct_cloud import MAC_A, SECRET, A, B, FakeControl, FakeMirror, Lines, instance, port
from tests.unit.imds.conftest import FakeInstances
from tests.waiting import until_async

from openimds.agents.metadata.handler import AgentDependencies, MetadataAgent
from openimds.agents.metadata.lookup.resolver import LookupPolicy
from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.protocols import Headers
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.http.messages import Request, Response
from openimds.imds.authenticators import SignatureAuthenticator
from openimds.imds.handler import MetadataHandler
from openimds.imds.instance_cache import InstanceCache
from openimds.imds.invalidation import PollIntervals
from openimds.imds.session_tokens import TokenSettings
from openimds.metadata.context import DocumentSettings

ADDRESS = "10.0.0.5"
ID = "req-00000000-0000-4000-8000-000000000001"
RECORD = instance(A, "vm-a", user_data=b"#!/bin/sh\n", metadata={"role": "web"})


@dataclass
class MetadataApi:
    """The metadata API to which the agent forwards requests. The API has the same instance."""

    handler: MetadataHandler
    requests: list[Request] = field(default_factory=list)

    async def request(self, method: str, target: bytes, headers: Headers, body: bytes) -> Response:
        length = ((b"Content-Length", b"%d" % len(body)),) if body else ()  # the connection pool adds this header
        request = Request(method=method, target=target, headers=(*headers, *length), body=body, peer="127.0.0.1")
        self.requests.append(request)
        return await self.handler.handle(request)


@dataclass
class Stage:
    agent: MetadataAgent
    api: MetadataApi
    mirror: FakeMirror
    control: FakeControl

    async def request(
        self, target: str, method: str = "GET", *headers: tuple[bytes, bytes], body: bytes = b""
    ) -> Response:
        origin = ((b"x-neutron-network-id", b"n1"), (b"x-forwarded-for", ADDRESS.encode()))
        last = (b"x-openstack-request-id", ID.encode())
        length = ((b"content-length", b"%d" % len(body)),) if body else ()
        made = Request(
            method=method,
            target=target.encode(),
            headers=((b"host", b"169.254.169.254"), *headers, *length, *origin, last),
            body=body,
            listener="metadata_proxy",
        )
        response = self.agent.handle(made)
        return response if isinstance(response, Response) else await response


@asynccontextmanager
async def stage(*, has_records: bool = True) -> AsyncIterator[Stage]:
    instances = FakeInstances()
    instances.put(RECORD)
    with ThreadPoolExecutor(4) as threads:
        records = InstanceCache(threads)
        api = MetadataApi(
            MetadataHandler(
                authenticator=SignatureAuthenticator(instances, records, [SECRET]),
                records=records,
                passwords=instances,
                settings=DocumentSettings(),
                executor=threads,
                request_log=Lines(),
                tokens=TokenSettings(secrets=[SECRET]),
            )
        )
        mirror = FakeMirror()
        mirror.publish(port(A, MAC_A, ADDRESS))
        control = FakeControl(instances={A: RECORD}, offered=has_records)
        agent = MetadataAgent(
            AgentDependencies(
                host="node1",
                mirror=mirror,
                ports=control,
                neighbours=control,
                source=control,
                intervals=PollIntervals(),
                upstream=api,
                shared_secret=SECRET,
                strict_hosts=None,
                rate_limit=None,
                executor=threads,
                metrics=Metrics(CollectorRegistry()),
                throttled_log=ThrottledLog(time.monotonic),
                request_log=Lines(),
                proxied_policy=LookupPolicy(hold_seconds=0.05),
                direct_policy=LookupPolicy(),
            )
        )
        agent.start()
        if has_records:
            await until_async(lambda: control.is_followed)
        try:
            yield Stage(agent, api, mirror, control)
        finally:
            agent.stop()


def without_seed(response: Response) -> tuple[int, tuple[tuple[bytes, bytes], ...], bytes]:
    body = re.sub(rb'"random_seed": "[^"]*"', b"", response.body)
    return response.status, tuple(response.headers), body


JSON = (b"accept", b"application/json")
FORWARDED = (b"x-openimds-guest-forwarded", b"1")
TTL = (b"x-aws-ec2-metadata-token-ttl-seconds", b"60")
REQUESTS: list[tuple[str, str, tuple[tuple[bytes, bytes], ...]]] = [
    ("/", "GET", ()),
    ("/latest/meta-data/", "GET", ()),
    ("/latest/meta-data/hostname", "HEAD", ()),
    ("/latest/meta-data/local-ipv4", "GET", ()),
    ("/latest/meta-data/nothing", "GET", ()),
    ("/latest/meta-data/nothing", "GET", (JSON,)),
    ("/latest/user-data", "GET", ()),
    ("/latest/user-data?x=1", "GET", ()),
    ("/openstack/latest/meta_data.json", "GET", ()),
    ("/openstack/latest/meta_data.json", "HEAD", ()),
    ("/openstack/latest/network_data.json", "GET", ()),
    ("/openstack/latest/vendor_data2.json", "GET", ()),
    ("/openstack/latest/vendor_data.json", "GET", ()),
    ("/openstack/latest/password", "GET", ()),
    ("/latest/meta-data/hostname", "GET", ((b"if-none-match", b"*"),)),
    ("/latest/meta-data/hostname", "OPTIONS", ()),
    ("/latest/meta-data/hostname", "DELETE", ()),
    ("/latest/meta-data/%00", "GET", ()),
    ("/latest/meta-data/hostname", "TRACE", ()),
    ("/openstack/latest/password", "POST", ()),
    ("/latest/api/token", "PUT", ()),
    ("/latest/api/token", "PUT", (TTL, FORWARDED)),
    ("/latest/api/token", "GET", (TTL,)),
    ("/latest/meta-data/hostname", "GET", ((b"x-aws-ec2-metadata-token", b"bad"),)),
]


@pytest.mark.parametrize(("target", "method", "headers"), REQUESTS)
async def test_a_held_record_gives_the_bytes_of_a_forwarded_request(
    target: str, method: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    async with stage() as held, stage(has_records=False) as forwarding:
        ours = [await held.request(target, method, *headers) for _ in range(2)]
        theirs = await forwarding.request(target, method, *headers)
        for one in ours:
            assert without_seed(one) == without_seed(theirs)
            assert one.hop_limit is None
        assert held.api.requests == []


async def test_an_issued_token_has_the_headers_of_a_forwarded_one() -> None:
    async with stage() as held, stage(has_records=False) as forwarding:
        ours, theirs = [await one.request("/latest/api/token", "PUT", TTL) for one in (held, forwarding)]
        assert (ours.status, tuple(ours.headers)) == (theirs.status, tuple(theirs.headers)) == (200, ours.headers)
        assert ours.hop_limit is None
        with_token = (b"x-aws-ec2-metadata-token", ours.body)
        for one in (held, forwarding):  # both have the secret
            assert (await one.request("/latest/meta-data/hostname", "GET", with_token)).body == b"vm-a.novalocal"


async def test_a_password_is_stored_by_the_metadata_api() -> None:
    async with stage() as held:
        assert (await held.request("/openstack/latest/password", "POST", body=b"secret")).status == 200
        assert [request.method for request in held.api.requests] == ["POST"]


async def test_an_instance_is_loaded_once_and_answered_while_the_metadata_api_is_unused() -> None:
    async with stage() as held:
        responses = await asyncio.gather(*(held.request("/latest/meta-data/hostname") for _ in range(30)))
        assert {response.body for response in responses} == {b"vm-a.novalocal"}
        assert held.control.requested_ids == [A]
        assert held.api.requests == []


async def test_a_replay_ends_with_the_port_and_with_the_record() -> None:
    async with stage() as held:
        await held.request("/latest/meta-data/hostname")
        replay = (await held.request("/latest/meta-data/hostname")).replay
        assert replay is not None
        assert replay(ID.encode()) is not None
        held.mirror.publish(replace(port(A, MAC_A, ADDRESS), device_id=B))
        assert replay(ID.encode()) is None
        held.mirror.publish(port(A, MAC_A, ADDRESS))
        again = (await held.request("/latest/meta-data/hostname")).replay
        assert again is not None
        held.control.change(instance(A, "renamed"))
        await until_async(lambda: again(ID.encode()) is None)
        assert (await held.request("/latest/meta-data/hostname")).body == b"renamed.novalocal"


async def test_an_instance_of_another_project_than_its_port_is_not_found() -> None:
    async with stage() as held:
        held.mirror.publish(replace(port(A, MAC_A, ADDRESS), project_id="p2"))
        response = await held.request("/latest/meta-data/hostname")
        assert (response.status, response.body) == (404, b"The resource could not be found.")
