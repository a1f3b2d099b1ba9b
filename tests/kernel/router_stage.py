"""A router with two internal networks and an external one on the real kernel, and guests on each."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kernel.metadata_proxies import DIRECT, taking_requests
from tests.kernel.metadata_server import MetadataServer
from tests.kernel.stage import Host
from tests.pids import pid_in
from tests.waiting import HANG_SECONDS, until

from openimds.agents.l3.router_handler import L3Adapters, L3Settings, RouterHandler
from openimds.agents.reconciler.reconciler import Reconciler
from openimds.agents.testing import FakePortsApi, FakeView
from openimds.linux.configure.neighbour_discovery import announce
from openimds.linux.errors import ProgramError
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.process.daemons import PidFileDaemons, run
from openimds.netconfig.haproxy import ProxySettings
from openimds.netconfig.namespace_state import Device, NamespaceState, Route
from openimds.netconfig.radvd import RadvdSettings
from openimds.netconfig.router_namespace import RouterMetadata
from openimds.resources.network import (
    DEVICE_OWNER_ROUTER_GATEWAY,
    DEVICE_OWNER_ROUTER_INTERFACE,
    ExternalGateway,
    FixedIP,
    FloatingIP,
    Network,
    Port,
    Router,
    Subnet,
    router_namespace,
)

OUTSIDE = "203.0.113.200"


@dataclass
class Stage:
    """A router with two internal networks and an external one, a guest on each, and a host outside."""

    host: Host
    view: FakeView
    routers: RouterHandler
    rounds: Reconciler
    router: Router
    server: MetadataServer
    folder: Path
    ports: dict[str, Port]
    guests: dict[str, str]
    outside: str

    @property
    def namespace(self) -> str:
        return router_namespace(self.router.id, self.host.prefix)

    def round(self, *, everything: bool = True) -> list[str]:
        report = self.rounds.run_pass(self.view, full=everything)
        assert not report.failures
        return [word for words in report.changes.values() for word in words]

    def rules(self, table: str, *more: str, command: str = "iptables") -> str:
        return run([command, "-t", table, "-S", *more], namespace=self.namespace)

    def float_to(self, address: str, fixed: str) -> FloatingIP:
        floating = FloatingIP(
            id=str(uuid.uuid4()),
            project_id="p",
            floating_network_id="ext",
            floating_ip_address=address,
            fixed_ip_address=fixed,
            port_id="x",
            router_id=self.router.id,
        )
        self.view.add(floating)
        return floating


@contextmanager
def router_stage(host: Host, metadata_proxy: str = "haproxy") -> Iterator[Stage]:
    """A stage that is always removed at the end."""
    folder = Path("/tmp") / f"openimds-{host.tag}"
    folder.mkdir(mode=0o755)
    view = FakeView()
    router_id = str(uuid.uuid4())
    ports = {}
    for number, (name, cidr) in enumerate({"a": "10.0.1.0/24", "b": "10.0.2.0/24", "ext": "203.0.113.0/24"}.items()):
        external = name == "ext"
        network = Network(id=f"{host.tag}{number:02x}-cccc-{name}", name=name, project_id="p", external=external)
        base = cidr.rsplit(".", 1)[0]
        subnet = Subnet(id=str(uuid.uuid4()), network_id=network.id, project_id="p", cidr=cidr, gateway_ip=f"{base}.1")
        ports[name] = Port(
            id=f"{host.tag}{number:02x}-dddd-{name}",
            network_id=network.id,
            project_id="p",
            mac_address=f"fa:16:3e:00:00:{number:02x}",
            fixed_ips=(FixedIP(subnet.id, f"{base}.5" if external else f"{base}.1"),),
            device_owner=DEVICE_OWNER_ROUTER_GATEWAY if external else DEVICE_OWNER_ROUTER_INTERFACE,
            device_id=router_id,
        )
        view.add(network, subnet, ports[name])
    gateway = ExternalGateway(network_id=ports["ext"].network_id, external_fixed_ips=ports["ext"].fixed_ips)
    router = Router(id=router_id, name="r1", project_id="p", external_gateway=gateway)
    view.add(router)
    settings = L3Settings(
        namespace_prefix=host.prefix,
        metadata=RouterMetadata(),
        proxy=ProxySettings(
            state_path=folder,
            agent_socket=folder / "agent",
            log_socket=folder / "log",
            is_direct=metadata_proxy == DIRECT,
        ),
        advertisements=RadvdSettings(state_path=folder, user="radvd"),
    )
    adapters = L3Adapters(
        api=FakePortsApi(view, int(host.tag, 16)),
        configurator=host.kernel,
        daemons=PidFileDaemons(),
        probe=NamespaceProbe(host.kernel.handles),
        run_program=run,
        announce=announce,
    )
    try:
        with (
            MetadataServer(folder / "agent", folder / "log") as server,
            taking_requests(metadata_proxy, server, folder),
        ):
            routers = RouterHandler(adapters, settings)
            made = Stage(host, view, routers, Reconciler(routers), router, server, folder, ports, {}, "")
            made.round()
            made.guests["a"] = plug(host, view, ports["a"], "10.0.1.7/24", "10.0.1.1")
            made.guests["b"] = plug(host, view, ports["b"], "10.0.2.7/24", "10.0.2.1")
            made.outside = plug(host, view, ports["ext"], f"{OUTSIDE}/24", None)
            yield made
    finally:
        run(["rm", "-rf", str(folder)])


def plug(host: Host, view: FakeView, beside: Port, address: str, gateway: str | None) -> str:
    """Creates a namespace on the same network as `beside`."""
    network = view.networks[beside.network_id]
    name = host.namespace(f"qvm-{network.name}")
    device = Device(
        name="eth0",
        host_name=f"tap{host.tag}g{network.name}",
        bridge=network.bridge_name,
        mac_address=f"fa:16:3e:{secrets.token_hex(1)}:{secrets.token_hex(1)}:77",
        mtu=network.mtu,
        addresses=frozenset({address}),
    )
    routes = frozenset({Route("0.0.0.0/0", gateway, "eth0")}) if gateway else frozenset()
    host.kernel.apply(NamespaceState(name=name, devices=(device,), routes=routes))
    return name


def curl(namespace: str, *arguments: str, seconds: float = 9) -> str:
    return run(
        ["curl", "-sS", "--max-time", str(seconds), *arguments], namespace=namespace, timeout_seconds=seconds + 5
    )


def peer_seen(client: str, server: str, address: str, listen: str | None = None, family: str = "AF_INET") -> str:
    """The source address that the server at `address` sees."""
    port = secrets.randbelow(20000) + 20000
    script = (
        f"import socket; s = socket.socket(socket.{family}); s.setsockopt(1, 2, 1);"
        f"s.bind(('{listen or address}', {port})); s.listen(); s.settimeout({HANG_SECONDS});"
        "print('ready', flush=True); c, peer = s.accept(); print(peer[0]); c.sendall(peer[0].encode()); c.close()"
    )
    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(run, ["python3", "-c", script], namespace=server, timeout_seconds=HANG_SECONDS)
        connect = f"import socket; print(socket.create_connection(('{address}', {port}), 1).recv(99).decode())"

        def connected() -> bool:
            try:
                run(["python3", "-c", connect], namespace=client)
            except ProgramError:
                return False
            return True

        until(connected)
        return seen.result().split()[-1]


def pid_of(stage: Stage) -> int:
    return until(lambda: pid_in(stage.folder / "external" / "pids" / f"{stage.router.id}.pid.haproxy"))
