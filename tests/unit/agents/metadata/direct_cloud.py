"""A cloud in memory for tests of the direct mode: ports, records and a metadata API.

Its guests connect over the loopback, and the test sets their MACs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from tests import builders
from tests.waiting import HANG_SECONDS, until_async

from openimds.agents.metadata.handler import AgentDependencies, MetadataAgent
from openimds.agents.metadata.lookup.resolver import LookupPolicy
from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.protocols import ControlAwayError, Headers, UpstreamAwayError
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.client.mirror import CloudView
from openimds.config.settings import RateLimitOptions
from openimds.guest_identity.addresses import Address, client_key
from openimds.http.messages import Response
from openimds.http.server.limits import ConnectionLimits
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import tcp_listener
from openimds.imds.invalidation import PollIntervals
from openimds.metadata.context import DocumentSettings
from openimds.programs.metadata_agent import worker
from openimds.resources.errors import NotOffered, StoreUnavailable
from openimds.resources.instance import ChangeSet, Ec2Ids, Instance
from openimds.resources.network import DEVICE_OWNER_ROUTER_INTERFACE, Port, Subnet

SECRET = "s3cret"
MAC_A, MAC_B = "fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b"
A, B = "11111111-2222-4333-8444-555555555501", "11111111-2222-4333-8444-555555555502"


def instance(instance_id: str, name: str, **more: Any) -> Instance:
    return Instance(
        id=instance_id,
        project_id="p1",
        name=name,
        hostname=name,
        ec2_ids=Ec2Ids(instance_id="i-00000001"),
        flavor_name="m1.tiny",
        **more,
    )


def port(instance_id: str, mac: str, *addresses: str) -> Port:
    port_id = f"port-of-{instance_id[-2:]}-{mac[-2:]}"
    return builders.port(port_id, mac, *addresses, project_id="p1", device_id=instance_id)


def interface_subnet(port: Port) -> Subnet | None:
    """Returns the subnet of a router interface, with the project of the interface. None for other ports."""
    if port.device_owner != DEVICE_OWNER_ROUTER_INTERFACE:
        return None
    return Subnet(
        id=port.fixed_ips[0].subnet_id, network_id=port.network_id, project_id=port.project_id, cidr="192.0.2.0/24"
    )


@dataclass
class FakeMirror:
    """A fake of client.mirror.Mirror. `publish` replaces its ports and notifies the subscribers."""

    connected: bool = True
    age_seconds: float = 0
    callbacks: list[Callable[[Any], None]] = field(default_factory=list)
    now: CloudView = field(default_factory=lambda: CloudView(revision=0))

    def view(self) -> CloudView:
        return self.now

    def subscribe(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)
        callback(self.now)

    def publish(self, *ports: Port) -> None:
        subnets = {one.id: one for one in map(interface_subnet, ports) if one is not None}
        self.now = CloudView(revision=self.now.revision + 1, ports={one.id: one for one in ports}, subnets=subnets)
        for callback in self.callbacks:
            callback(self.now)


@dataclass
class FakeControl:
    """The port list of Neutron, the neighbour table, and the extension with records."""

    real: list[Port] = field(default_factory=list)
    unavailable: bool = False
    port_queries: int = 0
    instances: dict[str, Instance] = field(default_factory=dict)
    offered: bool = True
    records_unavailable: bool = False
    requested_ids: list[str] = field(default_factory=list)
    revision: int = 1
    dynamic_vendor_data: bool = False
    age_seconds: float = 0
    is_followed: bool = False
    """Whether the agent has read the first revision. The agent caches records only after that."""

    def ports(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        self.port_queries += 1
        if self.unavailable:
            raise ControlAwayError("the control API is unavailable")
        found = self.real
        if "network_id" in filters:
            found = [one for one in found if one.network_id in filters["network_id"]]
        if "mac_address" in filters:
            found = [one for one in found if one.mac_address == filters["mac_address"]]
        if "device_id" in filters:
            found = [one for one in found if one.device_id == filters["device_id"]]
        return found

    def subnets(self, _filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        return [one for one in map(interface_subnet, self.real) if one is not None]

    def mac_of(self, _network_id: str | None, _router_id: str | None, address: Address) -> str | None:
        """Looks the address up in the neighbour table."""
        return next((one.mac_address for one in self.real if str(address) in one.ip_addresses), None)

    def start(self) -> None: ...
    def close(self) -> None: ...
    def subscribe_settings(self, callback: Callable[[DocumentSettings], None]) -> None: ...

    def settings(self) -> DocumentSettings:
        self._check()
        return DocumentSettings(dynamic_vendor_data=self.dynamic_vendor_data)

    def instance(self, instance_id: str) -> Instance | None:
        self._check()
        self.requested_ids.append(instance_id)
        return self.instances.get(instance_id)

    def newest(self) -> int:
        self._check()
        self.is_followed = True
        return self.revision

    def after(self, revision: int | None) -> ChangeSet:
        self._check()
        return ChangeSet(revision=self.revision, everything=revision != self.revision)

    def change(self, changed: Instance) -> None:
        self.instances[changed.id] = changed
        self.revision += 1

    def _check(self) -> None:
        if not self.offered:
            raise NotOffered("no such extension")
        if self.records_unavailable:
            raise StoreUnavailable("the control API is unavailable")


@dataclass
class FakeApi:
    """A metadata API that records requests, and responds while `open` is set."""

    requests: list[tuple[str, bytes, dict[bytes, bytes], bytes]] = field(default_factory=list)
    unavailable: bool = False
    headers: Headers = ((b"Content-Type", b"text/plain"),)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def request(self, method: str, target: bytes, headers: Headers, body: bytes) -> Response:
        if self.unavailable:
            raise UpstreamAwayError("http://api:8775 cannot be reached")
        self.requests.append((method, target, {name.lower(): value for name, value in headers}, body))
        number = len(self.requests)
        await self.open.wait()
        return Response(status=200, headers=self.headers, body=b"from the API %d" % number)


@dataclass
class Lines:
    """A request log that records its facts."""

    facts: list[dict[str, object]] = field(default_factory=list)

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Callable[[str, float], None]:
        def write(request_id: str, _milliseconds: float) -> None:
            self.facts.append({"event": event, "level": level, "request_id": request_id, **facts})

        return write


@dataclass
class Guest:
    """One connection of a guest."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""

    async def request(self, target: str, method: str = "GET", *headers: str, body: bytes = b"") -> tuple[int, bytes]:
        await self.send(target, method, *headers, body=body)
        return await self.read()

    async def send(self, target: str, method: str = "GET", *headers: str, body: bytes = b"") -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: 169.254.169.254", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join((*lines, "", "")).encode() + body)
        await self.writer.drain()

    async def request_last(self, data: bytes) -> bytes:
        """Sends bytes, and reads until the server closes the connection."""
        self.writer.write(data)
        async with asyncio.timeout(HANG_SECONDS):
            return await self.reader.read()

    async def read(self) -> tuple[int, bytes]:
        async with asyncio.timeout(HANG_SECONDS):
            self.head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(self.head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            return int(self.head.split()[1]), await self.reader.readexactly(length)


@dataclass
class Cloud:
    """The agent, its fakes, and the connections of its guests."""

    mirror: FakeMirror
    control: FakeControl
    api: FakeApi
    lines: Lines
    service: MetadataAgent
    server: HttpServer
    tcp_ports: dict[str, int]
    """The TCP port of each listener."""
    macs: list[str]
    sockets: list[Any]
    guests: list[Guest]

    async def guest(self, mac: str, *, listener: str = "network:n1", address: str = "127.0.0.1") -> Guest:
        """Opens a connection from this address and MAC."""
        self.macs.append(mac)
        tcp_port = self.tcp_ports[listener]
        server_address = "::1" if ":" in address else "127.0.0.1"
        guest = Guest(*await asyncio.open_connection(server_address, tcp_port, local_addr=(address, 0)))
        self.guests.append(guest)
        await until_async(lambda: not self.macs, "the server accepts the connection and reads its MAC")
        return guest

    async def until(self, condition: Callable[[], bool]) -> None:
        await until_async(condition)


@asynccontextmanager
async def cloud(
    *,
    ports: Sequence[Port] = (),
    listeners: Sequence[str] = ("network:n1",),
    control: FakeControl | None = None,
    strict_hosts: tuple[str, ...] | None = None,
    rate_limit: RateLimitOptions | None = None,
    per_peer: int = 256,
    policy: LookupPolicy | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Cloud]:
    control = control or FakeControl()
    control.real = list(ports)
    control.instances = {A: instance(A, "vm-a"), B: instance(B, "vm-b")} | control.instances
    mirror, api, lines = FakeMirror(), FakeApi(), Lines()
    mirror.publish(*ports)
    executor = ThreadPoolExecutor(4)
    service = MetadataAgent(
        AgentDependencies(
            host="node1",
            mirror=mirror,
            ports=control,
            neighbours=control,
            source=control,
            intervals=PollIntervals(),
            upstream=api,
            shared_secret=SECRET,
            strict_hosts=strict_hosts,
            rate_limit=worker.rate_limit(rate_limit),
            executor=executor,
            metrics=Metrics(CollectorRegistry()),
            throttled_log=ThrottledLog(time.monotonic),
            request_log=lines,
            proxied_policy=policy or LookupPolicy(hold_seconds=20),
            direct_policy=policy or LookupPolicy(hold_seconds=20),
        )
    )
    macs: list[str] = []
    sockets: list[Any] = []

    def source_mac(connection: Any) -> str:
        sockets.append(connection)
        return macs.pop(0)

    server = HttpServer(
        lambda request: service.handle(request),  # noqa: PLW0108 - tests replace the method
        connections=ConnectionLimits(per_peer=per_peer),
        bans=service.unknown_clients,
    )
    opened = {tag: tcp_listener(host, 0) for tag in listeners}
    tcp_ports = {tag: one.getsockname()[1] for tag, one in opened.items()}
    service.start()
    await server.start(
        [
            Listener(socket=one, tag=tag, source_mac=source_mac, guest_of=partial(client_key, tag))
            for tag, one in opened.items()
        ]
    )
    guests: list[Guest] = []
    try:
        if control.offered and not control.records_unavailable:
            await until_async(lambda: control.is_followed)
        yield Cloud(mirror, control, api, lines, service, server, tcp_ports, macs, sockets, guests)
    finally:
        for guest in guests:
            guest.writer.close()
            await asyncio.gather(guest.writer.wait_closed(), return_exceptions=True)
        await server.stop(1)
        service.stop()
        executor.shutdown()
