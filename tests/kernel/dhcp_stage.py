"""A network served by the DHCP agent on the real kernel, and guests with real DHCP clients."""

from __future__ import annotations

import os
import secrets
import signal
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

from openimds.agents.dhcp.network_handler import DhcpAdapters, DhcpNetworkHandler, DhcpSettings
from openimds.agents.reconciler.reconciler import Reconciler
from openimds.agents.testing import FakePortsApi, FakeView
from openimds.linux.errors import ProgramError
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.process.daemons import PidFileDaemons, run
from openimds.netconfig.dhcp_network import MetadataOptions
from openimds.netconfig.dnsmasq_command import DnsmasqSettings
from openimds.netconfig.haproxy import ProxySettings
from openimds.netconfig.namespace_state import Device, NamespaceState
from openimds.resources.network import FixedIP, Network, Port, Subnet, dhcp_namespace

FORCED = MetadataOptions(force_metadata=True)
GUEST_SCRIPT = """#!/bin/sh
env > "$LEASE_FILE"
"""


@dataclass
class Stage:
    """A network with one subnet, and guests that can be plugged into it."""

    host: Host
    view: FakeView
    networks: DhcpNetworkHandler
    rounds: Reconciler
    network: Network
    subnet: Subnet
    server: MetadataServer
    folder: Path
    guests: int = 0

    @property
    def namespace(self) -> str:
        return dhcp_namespace(self.network.id, self.host.prefix)

    def round(self, *, everything: bool = False) -> list[str]:
        report = self.rounds.run_pass(self.view, full=everything)
        assert not report.failures
        return [word for words in report.changes.values() for word in words]

    def port(self, address: str, subnet: Subnet | None = None) -> Port:
        self.guests += 1
        port = Port(
            id=f"{self.host.tag}{self.guests:02x}-aaaa-4000-8000-{secrets.token_hex(6)}",
            network_id=self.network.id,
            project_id="p",
            mac_address=f"fa:16:3e:{secrets.token_hex(1)}:{secrets.token_hex(1)}:{self.guests:02x}",
            fixed_ips=(FixedIP((subnet or self.subnet).id, address),),
            device_owner="compute:nova",
            device_id=str(uuid.uuid4()),
        )
        self.view.add(port)
        return port

    def plug(self, port: Port) -> str:
        """Creates a guest's namespace with the port's device `eth0`."""
        name = self.host.namespace(f"qvm-{port.id}")
        device = Device(
            name="eth0",
            host_name=port.tap_name,
            bridge=self.network.bridge_name,
            mac_address=port.mac_address,
            mtu=self.network.mtu,
            addresses=None,
        )
        self.host.kernel.apply(NamespaceState(name=name, devices=(device,), routes=None))
        run(["ip", "link", "set", "eth0", "up"], namespace=name)
        return name

    def lease(self, namespace: str) -> dict[str, str]:
        """The lease that a real DHCP client receives."""
        script, lease = self.folder / "udhcpc.sh", self.folder / f"{namespace}.lease"
        script.write_text(GUEST_SCRIPT)
        script.chmod(0o755)
        lease.unlink(missing_ok=True)
        options = ["-O", "121", "-O", "249", "-O", "mtu", "-O", "domain", "-O", "router", "-O", "dns"]
        command = [
            "busybox",
            "udhcpc",
            "-i",
            "eth0",
            "-n",
            "-q",
            "-f",
            "-t",
            "4",
            "-T",
            "1",
            "-s",
            str(script),
            *options,
        ]
        run(["env", f"LEASE_FILE={lease}", *command], namespace=namespace, timeout_seconds=HANG_SECONDS)
        return dict(line.split("=", 1) for line in lease.read_text().splitlines() if "=" in line)

    def boot(self, port: Port) -> str:
        """Creates a guest that applies its lease as a real client does: option 121 takes precedence over option 3."""
        guest = self.plug(port)
        self.configure(guest)
        return guest

    def configure(self, guest: str) -> dict[str, str]:
        """Applies a lease. Can be called again with a renewed one."""
        lease = self.lease(guest)
        run(["ip", "-4", "addr", "flush", "dev", "eth0"], namespace=guest)
        run(["ip", "addr", "add", f"{lease['ip']}/{lease['mask']}", "dev", "eth0"], namespace=guest)
        words = lease.get("staticroutes", f"0.0.0.0/0 {lease['router']}" if "router" in lease else "").split()
        for destination, hop in zip(words[::2], words[1::2], strict=True):
            way = ["dev", "eth0"] if hop == "0.0.0.0" else ["via", hop, "dev", "eth0"]
            run(["ip", "route", "replace", destination, *way], namespace=guest)
        return lease


@contextmanager
def network_stage(host: Host, metadata_proxy: str = "haproxy") -> Iterator[Stage]:
    """A stage after its first reconcile pass. It is always removed at the end."""
    # dnsmasq does not run as root and must be able to read files below this directory.
    folder = Path("/tmp") / f"openimds-{host.tag}"
    folder.mkdir(mode=0o755)
    view = FakeView()
    network = Network(id=f"{host.tag}00-bbbb-4000-8000-000000000001", name="test1", project_id="p", mtu=1442)
    subnet = Subnet(
        id=str(uuid.uuid4()), network_id=network.id, project_id="p", cidr="192.168.40.0/24", gateway_ip="192.168.40.1"
    )
    view.add(network, subnet)
    settings = DhcpSettings(
        host="node1",
        state_path=folder,
        namespace_prefix=host.prefix,
        metadata=FORCED,
        dnsmasq=DnsmasqSettings(),
        proxy=ProxySettings(
            state_path=folder,
            agent_socket=folder / "agent",
            log_socket=folder / "log",
            is_direct=metadata_proxy == DIRECT,
        ),
    )
    adapters = DhcpAdapters(
        api=FakePortsApi(view, int(host.tag, 16)),
        configurator=host.kernel,
        daemons=PidFileDaemons(),
        probe=NamespaceProbe(host.kernel.handles),
        run_program=run,
    )
    try:
        with (
            MetadataServer(folder / "agent", folder / "log") as server,
            taking_requests(metadata_proxy, server, folder),
        ):
            networks = DhcpNetworkHandler(adapters, settings)
            yield Stage(host, view, networks, Reconciler(networks), network, subnet, server, folder)
    finally:
        run(["rm", "-rf", str(folder)])


def lease_v6(stage: Stage, guest: str) -> str:
    """The lease that a real DHCPv6 client receives. The client's hooks are not run."""
    leases = stage.folder / f"{guest}.lease6"
    until(lambda: "tentative" not in run(["ip", "-6", "addr", "show", "dev", "eth0"], namespace=guest))
    files = ["-lf", str(leases), "-pf", str(leases.with_suffix(".pid")), "-sf", "/bin/true", "-cf", "/dev/null"]
    command = ["timeout", "15", "dhclient", "-6", "-1", "-d", "-D", "LL", *files, "eth0"]
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(run, command, namespace=guest, timeout_seconds=20)
        until(lambda: leases.exists() and "iaaddr" in leases.read_text())
        os.kill(until(lambda: pid_in(leases.with_suffix(".pid"))), signal.SIGKILL)
        assert client.exception() is not None
    return leases.read_text().split("iaaddr ")[1].split()[0]


def configure(guest: str, address: str, route: list[str]) -> None:
    run(["ip", "addr", "add", address, "dev", "eth0"], namespace=guest)
    run(["ip", "route", "add", *route], namespace=guest)


def curl(namespace: str, *more: str, url: str = "http://169.254.169.254/openstack", check: bool = True) -> str:
    try:
        return run(["curl", "-sS", "--max-time", "9", *more, url], namespace=namespace, timeout_seconds=HANG_SECONDS)
    except ProgramError:
        if check:
            raise
        return ""


def tap(stage: Stage) -> str:
    return next(name for name in stage.host.kernel.links(stage.namespace) if name.startswith("tap"))


def pid_of(stage: Stage, program: str) -> int:
    files = {
        "dnsmasq": stage.folder / "dhcp" / stage.network.id / "pid",
        "haproxy": stage.folder / "external" / "pids" / f"{stage.network.id}.pid.haproxy",
    }
    return until(lambda: pid_in(files[program]))
