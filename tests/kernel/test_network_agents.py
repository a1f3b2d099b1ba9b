"""`openimds dhcp-agent` and `openimds l3-agent` as programs on the real kernel, with a fake control API."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.stage import Host
from tests.pids import pid_in
from tests.waiting import HANG_SECONDS, until

from openimds.client.testing import PASSWORD, FakeControl
from openimds.linux.process.daemons import run
from openimds.linux.process.identity import is_alive
from openimds.netconfig.dhcp_network import dhcp_device_id
from openimds.resources.network import dhcp_namespace, router_namespace

pytestmark = pytest.mark.kernel

CONFIG = """\
[DEFAULT]
state_path = {state}
host = node1
namespace_prefix = {prefix}
resync_interval = 0.5
{more}
[agent]
report_interval = 0.2
[keystone_authtoken]
auth_url = {auth_url}
username = agent
password = {password}
project_name = service
user_domain_name = Default
project_domain_name = Default
"""


class Agent:
    """The process of one agent, with its configuration file and its output."""

    def __init__(self, host: Host, control: FakeControl, name: str, state: Path) -> None:
        self.host, self.control, self.name, self.state = host, control, name, state
        self.file = state / f"{name}.ini"
        self.log = state / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, more: str = "") -> None:
        self.configure(more)
        argv = [str(Path(sys.executable).parent / "openimds"), self.name, "--config-file", str(self.file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        until(self.facts)

    def configure(self, more: str) -> None:
        self.file.write_text(
            CONFIG.format(
                state=self.state,
                prefix=self.host.prefix,
                more=more,
                auth_url=self.control.auth.auth_url,
                password=PASSWORD,
            )
        )

    def send(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.send(number)
        code = self.process.wait(HANG_SECONDS)
        self.process = None
        self.control.calls.clear()
        return code

    def facts(self) -> dict[str, Any]:
        """The configurations of its last heartbeat."""
        path = f"/agents/openimds-{self.name}/node1"
        bodies = [call.body for call in self.control.calls if call.path == path]
        return dict(json.loads(bodies[-1])["configurations"]) if bodies else {}


class Cloud:
    """A network with a guest's port and a router, and both agents."""

    def __init__(self, host: Host, control: FakeControl, state: Path) -> None:
        self.host, self.control, self.state = host, control, state
        self.dhcp = Agent(host, control, "dhcp-agent", state)
        self.l3 = Agent(host, control, "l3-agent", state)
        self.network_id = f"{host.tag}00-0000-4000-8000-00000000000a"
        self.router_id = f"{host.tag}09-0000-4000-8000-00000000000c"
        self.qdhcp = dhcp_namespace(self.network_id, host.prefix)
        self.qrouter = router_namespace(self.router_id, host.prefix)
        control.put("network", {"id": self.network_id, "name": "n", "project_id": "p", "mtu": 1442})
        control.put(
            "subnet",
            {
                "id": "s",
                "network_id": self.network_id,
                "project_id": "p",
                "cidr": "192.168.40.0/24",
                "gateway_ip": "192.168.40.1",
                "ip_version": 4,
                "enable_dhcp": True,
            },
        )
        self.put_port(1, "network:dhcp", dhcp_device_id("node1", self.network_id), "192.168.40.2")
        self.put_port(5, "compute:nova", "vm1", "192.168.40.5")

    def put_port(self, number: int, owner: str, device_id: str, address: str) -> str:
        port_id = f"{self.host.tag}{number:02}-0000-4000-8000-00000000000b"
        port = {
            "id": port_id,
            "network_id": self.network_id,
            "project_id": "p",
            "mac_address": f"fa:16:3e:00:00:{number:02}",
            "fixed_ips": [{"subnet_id": "s", "ip_address": address}],
            "device_id": device_id,
            "device_owner": owner,
            "binding:host_id": "node1",
            "status": "DOWN",
            "admin_state_up": True,
            "port_security_enabled": True,
        }
        self.control.put("port", port)
        return port_id

    def put_router(self) -> None:
        self.control.put("router", {"id": self.router_id, "name": "r1", "project_id": "p", "admin_state_up": True})
        self.put_port(3, "network:router_interface", self.router_id, "192.168.40.1")

    def provisioned(self, number: int) -> list[str]:
        start = f"{self.host.tag}{number:02}-"
        calls = [call for call in self.control.calls if f"/ports/{start}" in call.path]
        return [json.loads(call.body)["entity"] for call in calls if call.path.endswith("/provisioned")]

    def pid(self, program: str) -> int:
        files = {
            "dnsmasq": self.state / "dhcp" / self.network_id / "pid",
            "proxy": self.state / "external" / "pids" / f"{self.network_id}.pid.haproxy",
            "router": self.state / "external" / "pids" / f"{self.router_id}.pid.haproxy",
        }
        return pid_in(files[program])


@pytest.fixture
def cloud(host: Host) -> Iterator[Cloud]:
    # dnsmasq does not run as root and must be able to read files below this directory.
    state = Path("/tmp") / f"openimds-{host.tag}"
    state.mkdir(mode=0o755)
    (host.state_path / "owned").mkdir()
    (state / "owned").symlink_to(host.state_path / "owned")  # the stage removes everything that the agents create
    with FakeControl() as control:
        cloud = Cloud(host, control, state)
        try:
            yield cloud
        finally:
            cloud.dhcp.end()
            cloud.l3.end()
    shutil.rmtree(state)


def test_network_is_served_and_the_port_is_reported(cloud: Cloud) -> None:
    cloud.dhcp.start("force_metadata = True\nresync_interval = 3600")  # only an event can have caused it
    until(lambda: cloud.provisioned(5) == ["dhcp"])
    assert cloud.provisioned(1) == ["l2"]
    assert "169.254.169.254/16" in run(["ip", "addr"], namespace=cloud.qdhcp)
    until(lambda: cloud.dhcp.facts()["networks"] == 1)
    facts = cloud.dhcp.facts()
    assert facts["failures"] == {}
    assert facts["by_network"][cloud.network_id]["way_to_metadata"]["s"]["way"] == "dhcp"
    cloud.put_port(6, "compute:nova", "vm2", "192.168.40.6")
    until(lambda: cloud.provisioned(6) == ["dhcp"])
    assert "192.168.40.6" in (cloud.state / "dhcp" / cloud.network_id / "host").read_text()


def test_sighup_reloads_the_configuration(cloud: Cloud) -> None:
    cloud.dhcp.start()
    until(lambda: cloud.pid("dnsmasq"))
    assert not cloud.pid("proxy")
    dnsmasq = cloud.pid("dnsmasq")
    cloud.dhcp.configure("force_metadata = True")
    cloud.dhcp.send(signal.SIGHUP)
    until(lambda: cloud.pid("proxy"))
    assert cloud.pid("dnsmasq") == dnsmasq
    assert is_alive(dnsmasq)
    cloud.dhcp.configure("force_metadata = perhaps")
    cloud.dhcp.send(signal.SIGHUP)
    until(lambda: "configuration reload failed" in cloud.dhcp.log.read_text())
    assert is_alive(cloud.pid("proxy"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_agent_restart_interrupts_and_changes_nothing(cloud: Cloud, number: signal.Signals) -> None:
    cloud.put_router()
    cloud.dhcp.start("force_metadata = True")
    cloud.l3.start()
    pids = [cloud.pid(program) for program in ("dnsmasq", "proxy", "router")]
    links = run(["ip", "-o", "link"], namespace=cloud.qrouter)
    assert cloud.dhcp.end(number) == cloud.l3.end(number) == (0 if number == signal.SIGTERM else -9)
    assert all(is_alive(pid) for pid in pids)
    cloud.dhcp.start("force_metadata = True")
    cloud.l3.start()
    assert [cloud.pid(program) for program in ("dnsmasq", "proxy", "router")] == pids
    assert run(["ip", "-o", "link"], namespace=cloud.qrouter) == links


def test_exited_programs_are_restarted_immediately(cloud: Cloud) -> None:
    cloud.put_router()
    cloud.dhcp.start("force_metadata = True\nresync_interval = 3600")
    cloud.l3.start("resync_interval = 3600")
    for program in ("dnsmasq", "proxy", "router"):
        until(lambda program=program: cloud.pid(program))  # type: ignore[misc]
        dead = cloud.pid(program)
        os.kill(dead, signal.SIGKILL)
        until(lambda dead=dead, program=program: cloud.pid(program) not in (0, dead))  # type: ignore[misc]


def test_unreachable_control_api_changes_nothing(cloud: Cloud) -> None:
    cloud.dhcp.start("force_metadata = True")
    until(lambda: cloud.pid("proxy"))
    cloud.control.fail_with(503)
    os.kill(dead := cloud.pid("proxy"), signal.SIGKILL)
    until(lambda: cloud.pid("proxy") not in (0, dead))
    cloud.control.fail_with(None)
    cloud.put_port(7, "compute:nova", "vm3", "192.168.40.7")
    until(lambda: cloud.provisioned(7) == ["dhcp"])


def test_router_is_created_and_deleted(cloud: Cloud) -> None:
    cloud.l3.start()
    cloud.put_router()
    until(lambda: cloud.provisioned(3) == ["l2"])
    assert "REDIRECT --to-ports 9697" in run(["iptables", "-t", "nat", "-S"], namespace=cloud.qrouter)
    cloud.control.delete("router", cloud.router_id)
    until(lambda: cloud.qrouter not in cloud.host.kernel.namespaces())


def test_leftovers_of_a_crash_are_removed(cloud: Cloud) -> None:
    cloud.put_router()
    cloud.l3.start()
    until(lambda: cloud.qrouter in cloud.host.kernel.namespaces())
    cloud.l3.end(signal.SIGKILL)
    cloud.control.delete("router", cloud.router_id)
    cloud.l3.start()
    until(lambda: cloud.qrouter not in cloud.host.kernel.namespaces())
