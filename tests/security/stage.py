"""The metadata path on the loopback interface: HAProxy → metadata agent → metadata API.

Guests send from addresses of 127.0.0.0/8, so that the tests need neither namespaces nor root. A `Transcript` stores all bytes
of a connection with its client.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import uvloop
from prometheus_client import CollectorRegistry
from tests.compat.stage import Stage as ApiStage
from tests.no_records import NoRecords
from tests.ports import free_port
from tests.security.instances import NETWORK, SECRET, Guest, instances_document
from tests.security.port_mirror import EmptyControlApi, ports_of_guests
from tests.security.responses import Answer
from tests.security.server_thread import SHORT
from tests.security.transcript import Connection, Transcript, send_and_read
from tests.waiting import HANG_SECONDS, until

from openimds.agents.metadata.handler import AgentDependencies, MetadataAgent
from openimds.agents.metadata.lookup.resolver import LookupPolicy
from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.http.client.pool import Pool, ServerAddress
from openimds.http.server.limits import ConnectionLimits, Limits, Timeouts
from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import UnixAccess, tcp_listener, unix_listener
from openimds.imds.invalidation import PollIntervals
from openimds.netconfig.haproxy import ProxySettings, ProxySpec, ProxyTimeouts, haproxy_config
from openimds.netconfig.listener_file import ListenAddress, Scope
from openimds.programs.metadata_agent.adapters import PooledUpstream
from openimds.programs.metadata_api.worker import LIMITS


class Lines:
    """The agent's request log as structlog events, so that tests can capture them."""

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Callable[[str, float], None]:
        return lambda request_id, ms: structlog.get_logger().info(event, request_id=request_id, ms=ms, **facts)


class Cloud:
    """The servers, on an event loop in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.transcripts: list[Transcript] = []
        self.api_stage = ApiStage(folder, instances_document())
        self.ports = ports_of_guests()
        self.agent: MetadataAgent
        self.api_port = 0
        self.proxy_port = 0
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[HttpServer] = []
        self._pool: Pool
        self._haproxy: subprocess.Popen[bytes] | None = None
        self._executor = ThreadPoolExecutor(2)

    @property
    def agent_socket(self) -> Path:
        return self.folder / "metadata_proxy"

    def start(self) -> None:
        self._thread.start()
        self.api_port = self.run(self._start_api())
        self.run(self._start_agent())

    def stop(self) -> None:
        if self._haproxy is not None:
            self._haproxy.terminate()
            self._haproxy.wait(HANG_SECONDS)
        self.run(self._stop_servers())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(HANG_SECONDS)
        self._loop.close()
        self._executor.shutdown()
        self.api_stage.close()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(HANG_SECONDS)

    # Requests -----------------------------------------------------------------------------------------------------

    def connect_api(self, client: Guest | None) -> Connection:
        """Connects to the metadata API, as an agent does for `client`."""
        return self._line(socket.create_connection(("127.0.0.1", self.api_port), HANG_SECONDS), client)

    def connect_agent(self, client: Guest | None) -> Connection:
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(HANG_SECONDS)
        raw.connect(str(self.agent_socket))
        return self._line(raw, client)

    def connect_proxy(self, client: Guest | None, address: str = "") -> Connection:
        """Connects to the namespace proxy, as a guest does."""
        source = address or (client.address if client else "127.0.0.1")
        raw = socket.create_connection(("127.0.0.1", self.proxy_port), HANG_SECONDS, (source, 0))
        return self._line(raw, client)

    def ask_api(self, client: Guest | None, data: bytes) -> list[Answer]:
        return send_and_read(self.connect_api(client), data)

    def ask_agent(self, client: Guest | None, data: bytes) -> list[Answer]:
        return send_and_read(self.connect_agent(client), data)

    def ask_proxy(self, client: Guest | None, data: bytes, address: str = "") -> list[Answer]:
        return send_and_read(self.connect_proxy(client, address), data)

    def check_transcripts(self) -> None:
        """Checks all responses since the last call."""
        transcripts, self.transcripts = self.transcripts, []
        for transcript in transcripts:
            transcript.check()

    def _line(self, raw: socket.socket, client: Guest | None) -> Connection:
        raw.settimeout(HANG_SECONDS)
        transcript = Transcript(client)
        self.transcripts.append(transcript)
        return Connection(raw, transcript)

    # Servers ------------------------------------------------------------------------------------------------------

    async def _start_api(self) -> int:
        listener = tcp_listener("127.0.0.1", 0)
        port: int = listener.getsockname()[1]
        service = self.api_stage.service("cache")
        server = HttpServer(service.handle, timeouts=SHORT, connections=ConnectionLimits(per_peer=20_000))
        await server.start([Listener(socket=listener, tag="tcp", limits=LIMITS)])
        self._servers.append(server)
        return port

    @contextmanager
    def api_with_long_timeouts(self) -> Iterator[int]:
        """The port of another metadata API with long timeouts."""
        listener = tcp_listener("127.0.0.1", 0)
        port: int = listener.getsockname()[1]
        timeouts = Timeouts(head=HANG_SECONDS, body=HANG_SECONDS)
        server = HttpServer(self.api_stage.service("cache").handle, timeouts=timeouts)
        self.run(server.start([Listener(socket=listener, tag="tcp", limits=LIMITS)]))
        try:
            yield port
        finally:
            self.run(server.stop(0.5))

    async def _start_agent(self) -> None:
        self._pool = Pool(ServerAddress(host="127.0.0.1", port=self.api_port))
        self.agent = MetadataAgent(
            AgentDependencies(
                host="node1",
                mirror=self.ports,
                ports=EmptyControlApi(),
                neighbours=self.ports,
                source=NoRecords(),
                intervals=PollIntervals(),
                upstream=PooledUpstream(self._pool),
                shared_secret=SECRET,
                strict_hosts=None,
                rate_limit=None,
                executor=self._executor,
                metrics=Metrics(CollectorRegistry()),
                throttled_log=ThrottledLog(time.monotonic),
                request_log=Lines(),
                proxied_policy=LookupPolicy(),
                direct_policy=LookupPolicy(),
            )
        )
        self.agent.start()
        server = HttpServer(self.agent.handle, timeouts=SHORT)
        listener = unix_listener(self.agent_socket, UnixAccess(mode=0o666))
        await server.start([Listener(socket=listener, tag="proxy", limits=Limits(body_bytes=256 * 1024))])
        self._servers.append(server)

    async def _stop_servers(self) -> None:
        for server in reversed(self._servers):
            await server.stop(0.5)
        self.agent.stop()
        await self._pool.close()

    def start_proxy(self, **settings: Any) -> None:
        self.proxy_port = free_port()
        self._haproxy = start_haproxy(self.folder, self.agent_socket, self.proxy_port, **settings)


def start_haproxy(folder: Path, agent: Path, port: int, **settings: Any) -> subprocess.Popen[bytes]:
    """Starts the namespace proxy with the agents' configuration on a port of the loopback interface."""
    place = folder / f"proxy-{port}"
    (place / "external" / "pids").mkdir(parents=True)
    settings.setdefault("timeouts", ProxyTimeouts(http_request_seconds=1))
    made = ProxySettings(state_path=place, agent_socket=agent, log_socket=place / "log", **settings)
    proxy = ProxySpec(
        name=NETWORK, namespace="", scope=Scope.NETWORK, scope_id=NETWORK, addresses=(ListenAddress("127.0.0.1", port),)
    )
    file = place / "haproxy.conf"
    file.write_text(haproxy_config(proxy, made))
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(file)], stderr=subprocess.DEVNULL)
    until(lambda: _listens(port))
    return process


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def cloud_in(folder: Path) -> Iterator[Cloud]:
    cloud = Cloud(folder)
    cloud.start()
    try:
        yield cloud
    finally:
        cloud.stop()
