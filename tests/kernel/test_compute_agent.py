"""`openimds compute-agent` as a program on the real kernel, with a fake control API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.kernel.guest_network import MetadataStandIn, documents, serve_dhcp
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS, until

from openimds.client.testing import PASSWORD, FakeControl
from openimds.linux.netns import netns
from openimds.linux.process import by_namespace
from openimds.linux.process.daemons import run

pytestmark = pytest.mark.kernel

MAC = "fa:16:3e:00:00:05"


class Cloud:
    """A control API with one server that has one port on this host, and the agent."""

    def __init__(self, host: Host, control: FakeControl) -> None:
        self.host, self.control = host, control
        self.network_id = f"{host.tag}00-0000-4000-8000-00000000000a"
        self.port_id = f"{host.tag}01-0000-4000-8000-00000000000b"
        self.server_id = f"{host.tag}02-0000-4000-8000-00000000000c"
        self.namespace = host.namespace(f"qvm-{self.server_id}")
        self.generation = 1
        self.resync_interval = 0.5
        self.agent: subprocess.Popen[bytes] | None = None
        control.put("network", {"id": self.network_id, "name": "n", "project_id": "p", "mtu": 1442})
        subnet = {
            "id": "s",
            "network_id": self.network_id,
            "project_id": "p",
            "cidr": "192.168.40.0/24",
            "gateway_ip": "192.168.40.1",
            "ip_version": 4,
            "enable_dhcp": True,
        }
        control.put("subnet", subnet)
        self.put_port()
        self.put_server()

    @property
    def bridge(self) -> str:
        return f"brq{self.network_id[:11]}"

    def put_port(self, **changes: object) -> None:
        port = {
            "id": self.port_id,
            "network_id": self.network_id,
            "project_id": "p",
            "mac_address": MAC,
            "fixed_ips": [{"subnet_id": "s", "ip_address": "192.168.40.5"}],
            "device_id": self.server_id,
            "device_owner": "compute:nova",
            "binding:host_id": "node1",
            "status": "ACTIVE",
            "admin_state_up": True,
            "port_security_enabled": True,
        }
        self.control.put("port", port | changes)

    def put_server(self, power: str = "running") -> None:
        server = {
            "id": self.server_id,
            "name": "vm1",
            "project_id": "p",
            "hostname": "vm1",
            "host": "node1",
            "driver": "netns",
            "wanted_power_state": power,
            "boot_generation": self.generation,
            "port_ids": [self.port_id],
        }
        self.control.put("server", server)

    def start_agent(self) -> None:
        auth = self.control.auth
        file = self.host.state_path / "compute_agent.ini"
        file.write_text(
            f"[DEFAULT]\nstate_path = {self.host.state_path}\nhost = node1\nnamespace_prefix = {self.host.prefix}\n"
            f"resync_interval = {self.resync_interval}\n"
            f"[agent]\nreport_interval = 0.3\n"
            f"[keystone_authtoken]\nauth_url = {auth.auth_url}\nusername = agent\npassword = {PASSWORD}\n"
            "project_name = service\nuser_domain_name = Default\nproject_domain_name = Default\n"
            "[guest]\nmetadata_tries = 3\nmetadata_delay = 0.1\n"
        )
        self.log = (self.host.state_path / "agent.log").open("ab")
        argv = [str(Path(sys.executable).parent / "openimds"), "compute-agent", "--config-file", str(file)]
        self.agent = subprocess.Popen(argv, stdout=self.log, stderr=self.log)

    def stop_agent(self, sent: signal.Signals = signal.SIGTERM) -> int:
        if self.agent is None:
            return 0
        self.agent.send_signal(sent)
        code = self.agent.wait(timeout=HANG_SECONDS)
        self.agent = None
        self.log.close()
        return code

    def said(self, word: str) -> list[str]:
        return [str(call) for call in self.control.calls if word in str(call)]

    def reported(self, generation: int, state: str) -> bool:
        """True if the newest report contains these values."""
        bodies = [json.loads(call.body) for call in self.control.calls if call.path.endswith("/report")]
        return bool(bodies) and (bodies[-1]["boot_generation"], bodies[-1]["power_state"]) == (generation, state)

    def console(self) -> str:
        bodies = [call.body.decode() for call in self.control.calls if call.path.endswith("/console")]
        return bodies[-1] if bodies else ""

    def heartbeat(self) -> dict[str, object]:
        bodies = [call.body for call in self.control.calls if call.path == "/agents/openimds-compute-agent/node1"]
        return dict(json.loads(bodies[-1])["configurations"]) if bodies else {}

    def boot_record(self) -> str:
        return self.folder.joinpath("boot.pid").read_text()

    @property
    def folder(self) -> Path:
        return self.host.state_path / "instances" / self.server_id


@pytest.fixture
def cloud(host: Host) -> Iterator[Cloud]:
    with FakeControl() as control:
        cloud = Cloud(host, control)
        try:
            yield cloud
        finally:
            cloud.stop_agent()


@contextmanager
def metadata(cloud: Cloud) -> Iterator[MetadataStandIn]:
    namespace = serve_dhcp(cloud.host, bridge=cloud.bridge, leases={MAC: "192.168.40.5"})
    stand_in = MetadataStandIn(namespace, documents("vm1"))
    with stand_in.running():
        yield stand_in


def test_server_is_booted_rebooted_and_deleted(cloud: Cloud) -> None:
    with metadata(cloud):
        cloud.start_agent()
        until(lambda: cloud.reported(1, "running"))
        until(lambda: "vm1 login:" in cloud.console())
        assert "user data says: vm1 0" in cloud.console()
        assert cloud.said("provisioned") == []
        until(lambda: cloud.heartbeat().get("servers") == 1)
        assert cloud.heartbeat()["by_server"] == {cloud.server_id: {"generation": 1, "power_state": "running"}}

        cloud.generation = 2
        cloud.put_server()
        until(lambda: cloud.reported(2, "running"))
        until(lambda: cloud.boot_record().endswith(" 2\n"))

        cloud.put_server("stopped")
        until(lambda: cloud.reported(2, "stopped"))
        assert by_namespace.processes_in(cloud.namespace) == set()

        cloud.control.delete("server", cloud.server_id)
        cloud.control.delete("port", cloud.port_id)
        until(lambda: not cloud.folder.exists() and cloud.namespace not in netns.list_names())
        until(lambda: f"tap{cloud.port_id[:11]}" not in run(["nft", "list", "ruleset"]))
        assert cloud.stop_agent() == 0


def test_killed_agent_leaves_instances_running(cloud: Cloud) -> None:
    with metadata(cloud) as stand_in:
        cloud.start_agent()
        until(lambda: "vm1 login:" in cloud.console())
        record, asked = cloud.boot_record(), len(stand_in.asked)
        cloud.stop_agent(signal.SIGKILL)
        run(["curl", "-sf", "http://169.254.169.254/2009-04-04/user-data"], namespace=cloud.namespace)
        cloud.control.calls.clear()
        cloud.start_agent()
        until(lambda: cloud.reported(1, "running"))
        until(cloud.heartbeat)
        assert cloud.boot_record() == record
        assert len(stand_in.asked) == asked + 1
        assert Path("/proc", record.split()[0]).exists()


def test_foreign_changes_are_repaired_while_the_guest_runs(cloud: Cloud) -> None:
    cloud.start_agent()
    until(lambda: cloud.reported(1, "running"))
    record = cloud.boot_record()
    tap = f"tap{cloud.port_id[:11]}"
    run(["ip", "link", "set", tap, "nomaster"])
    run(["ip", "link", "set", tap, "down"])
    table = next(
        line for line in run(["nft", "list", "tables"]).splitlines() if "bridge" in line and cloud.host.tag in line
    )
    run(["nft", "delete", *table.split()])
    until(lambda: f"master {cloud.bridge}" in run(["ip", "link", "show", tap]))
    until(lambda: "UP" in run(["ip", "link", "show", tap]))
    until(lambda: tap in run(["nft", "list", "ruleset"]))
    assert cloud.boot_record() == record


def test_boot_waits_for_its_port_and_reports_it(cloud: Cloud) -> None:
    cloud.put_port(status="DOWN")
    cloud.start_agent()
    until(lambda: cloud.said(f"/ports/{cloud.port_id}/provisioned"))
    assert not (cloud.folder / "boot.pid").exists()
    cloud.put_port(status="ACTIVE")
    until(lambda: cloud.reported(1, "running"))


def test_agent_survives_an_unreachable_control_api(cloud: Cloud) -> None:
    cloud.start_agent()
    until(lambda: cloud.reported(1, "running"))
    cloud.control.fail_with(503)
    os.kill(int(cloud.boot_record().split()[0]), signal.SIGKILL)
    until(lambda: "resource reconcile failed" in (cloud.host.state_path / "agent.log").read_text())
    cloud.control.fail_with(None)
    until(lambda: cloud.reported(1, "stopped"))
