"""A metadata agent with a real unix socket, a small metadata API on a TCP socket, and fake ports."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from tests.builders import port
from tests.no_records import NoRecords
from tests.waiting import HANG_SECONDS

from openimds.agents.metadata.handler import AgentDependencies, MetadataAgent
from openimds.agents.metadata.lookup.resolver import LookupPolicy
from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.protocols import ControlAwayError
from openimds.agents.metadata.proxy.per_key_limiter import MAX_REQUESTS_PER_CLIENT
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.guest_identity.addresses import Address
from openimds.guest_identity.headers import HeaderError, instance_claim
from openimds.guest_identity.signature import verify
from openimds.http.client.pool import Pool, ServerAddress
from openimds.http.messages import Request, Response, text_response
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import UnixAccess, tcp_listener, unix_listener
from openimds.imds.invalidation import PollIntervals
from openimds.programs.metadata_agent.adapters import PooledUpstream
from openimds.resources.network import Port, Subnet

VM1, VM2 = str(uuid.uuid4()), str(uuid.uuid4())
NET1, NET2 = str(uuid.uuid4()), str(uuid.uuid4())
GZIPPED = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"


@dataclass
class Cloud:
    """A mirror with instances of two projects that have the same address, and an unavailable control API."""

    ports_by_id: Mapping[str, Port] = field(
        default_factory=lambda: {
            "p1": port("p1", network=NET1, device_id=VM1, project_id="one"),
            "p2": port("p2", network=NET2, device_id=VM2, project_id="two"),
        }
    )
    connected: bool = True
    age_seconds: float = 0
    revision: int = 1

    def view(self) -> CloudView:
        return CloudView(self.ports_by_id)

    def subscribe(self, callback: Callable[[Any], None]) -> None: ...

    def mac_of(self, _network_id: str | None, _router_id: str | None, _address: Address) -> str | None:
        return None

    found: Sequence[Port] | None = None
    """The ports of Neutron's response. None if Neutron does not respond."""

    def ports(self, _filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        if self.found is not None:
            return self.found
        if not self.connected:
            raise ControlAwayError("the control API is unavailable")
        return []

    def subnets(self, _filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        return []


@dataclass
class CloudView:
    ports: Mapping[str, Port]
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    revision: int = 1


@dataclass
class FakeApi:
    """A metadata API that verifies signatures, responds with the identity of the client, and records requests."""

    secret: str = "shared"
    requests: list[Request] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    full: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the API holds as many requests as one client can have in progress."""

    async def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        try:
            claim = instance_claim(request.headers)
        except HeaderError as error:
            return text_response(400, str(error))
        if not verify([self.secret], claim.instance_id, claim.signature):
            return text_response(403, "Invalid proxy request signature.")
        if claim.instance_id not in (VM1, VM2):
            return text_response(404, "Not found.")
        if request.target == b"/zipped":
            return Response(status=200, headers=((b"Content-Encoding", b"gzip"),), body=GZIPPED)
        if request.target.startswith(b"/held"):
            if len(self.requests) == MAX_REQUESTS_PER_CLIENT:
                self.full.set()
            await self.held.wait()
        text = f"{claim.instance_id} {claim.tenant_id} {claim.address} {request.method} {request.target.decode()}"
        return Response(
            status=200,
            headers=((b"Content-Type", b"text/plain; charset=UTF-8"), (b"Server", b"internal-name")),
            body=text.encode() + b" " + request.body,
        )


@dataclass
class Lines:
    """A request log that records its lines."""

    lines: list[dict[str, object]] = field(default_factory=list)

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Callable[[str, float], None]:
        return lambda request_id, ms: self.lines.append(
            {"event": event, "level": level, "request_id": request_id, "ms": ms, **facts}
        )


@dataclass
class Agent:
    path: Path
    api: FakeApi
    service: MetadataAgent
    upstream: PooledUpstream
    registry: CollectorRegistry
    log: Lines
    throttled_log: ThrottledLog

    async def send(self, data: bytes) -> bytes:
        """Sends bytes, and returns all bytes until the end of the connection."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(data)
        async with asyncio.timeout(HANG_SECONDS):
            response = await reader.read()
        writer.close()
        return response

    async def request(self, target: str = "/openstack", *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
        lines = [f"{method} {target} HTTP/1.1", "Host: 169.254.169.254", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return await self.send("\r\n".join([*lines, "", ""]).encode() + body)


@asynccontextmanager
async def running(
    tmp_path: Path,
    cloud: Cloud | None = None,
    *,
    is_api_up: bool = True,
    secret: str = "shared",
    policy: LookupPolicy | None = None,
) -> AsyncIterator[Agent]:
    api = FakeApi()
    listener = tcp_listener("127.0.0.1", 0)
    api_port = listener.getsockname()[1]
    api_server = HttpServer(api)
    if is_api_up:
        await api_server.start([Listener(socket=listener)])
    else:
        listener.close()
    fakes = cloud or Cloud()
    pool = Pool(ServerAddress(host="127.0.0.1", port=api_port))
    loop = asyncio.get_running_loop()
    registry = CollectorRegistry()
    with ThreadPoolExecutor(2) as executor:
        upstream = PooledUpstream(pool)
        log = Lines()
        throttled_log = ThrottledLog(loop.time)
        service = MetadataAgent(
            AgentDependencies(
                host="node1",
                mirror=fakes,
                ports=fakes,
                neighbours=fakes,
                source=NoRecords(),
                intervals=PollIntervals(),
                upstream=upstream,
                shared_secret=secret,
                strict_hosts=None,
                rate_limit=None,
                executor=executor,
                metrics=Metrics(registry),
                throttled_log=throttled_log,
                request_log=log,
                proxied_policy=policy or LookupPolicy(),
                direct_policy=policy or LookupPolicy(),
            )
        )
        service.start()
        server = HttpServer(service.handle)
        path = tmp_path / "metadata_proxy"
        await server.start([Listener(socket=unix_listener(path, UnixAccess()))])
        try:
            yield Agent(path, api, service, upstream, registry, log, throttled_log)
        finally:
            await server.stop(1)
            service.stop()
            await pool.close()
            if is_api_up:
                await api_server.stop(1)


FROM_NET1 = (f"X-Neutron-Network-ID: {NET1}", "X-Forwarded-For: 10.0.0.5")


def status_of(response: bytes) -> int:
    return int(response.split()[1])


def body_of(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]
