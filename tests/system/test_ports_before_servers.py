"""Ports that exist before their servers become ACTIVE once they are bound. No boot waits for its timeout."""

from __future__ import annotations

import base64
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud, shown
from tests.system.qemu_guest import META_DATA, USER_DATA, QemuGuest, qemu_guest, tap
from tests.waiting import until

from openimds.linux.process import identity

EXTERNAL = "m1.external"
TIMED_OUT = "boot started with inactive ports"
AGENTS = ("dhcp-agent", "compute-agent", "control-api")
ADDRESSES = ("10.31.0.200", "10.31.0.201", "10.31.0.202")


@dataclass(frozen=True, slots=True)
class Stage:
    """A network on a running system."""

    cloud: Cloud
    api: ApiClient
    network: Network

    def port(self) -> str:
        """The id of a port that belongs to no device. The DHCP agent has seen it."""
        port_id = str(self.api.port(self.network)["id"])
        self.wait_served(port_id)
        return port_id

    def update(self, port_id: str, **changes: Any) -> None:
        self.api.put("network", f"/v2.0/ports/{port_id}", {"port": changes})

    def set_address(self, port_id: str, address: str) -> None:
        self.api.set_addresses(port_id, self.network.subnet_id, [address])

    def boot(self, name: str, port_id: str, **more: Any) -> str:
        """The id of a server that is booting with this port as its only NIC."""
        return self.api.server(name, self.network, networks=[{"port": port_id}], **more)

    def show_port(self, port_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("network", f"/v2.0/ports/{port_id}")["port"]
        return found

    def status(self, server_id: str) -> str:
        return str(self.api.get("compute", f"/servers/{server_id}")["server"]["status"])

    def wait_served(self, port_id: str) -> None:
        """Waits until the DHCP agent serves the port with the address of the control API."""
        port = self.show_port(port_id)
        hosts = self.cloud.state_dir / "dhcp" / self.network.id / "host"
        start, end = f"{port['mac_address']},", f",{port['fixed_ips'][0]['ip_address']}"

        def is_served() -> bool:
            lines = hosts.read_text().splitlines() if hosts.exists() else []
            return any(line.startswith(start) and end in line for line in lines)

        until(is_served, f"the DHCP agent serves port {port_id}")

    def wait_active(self, port_id: str) -> None:
        until(lambda: self.show_port(port_id)["status"] == "ACTIVE", lambda: f"ACTIVE: {self.show_port(port_id)}")

    def wait_running(self, server_id: str, port_id: str) -> None:
        """Waits until the server and the port are ACTIVE. The boot must not wait for its timeout."""
        until(lambda: self.status(server_id) == "ACTIVE", f"server {server_id} is ACTIVE")
        assert self.timeouts(server_id) == []
        self.wait_active(port_id)

    def timeouts(self, server_id: str) -> list[str]:
        lines = self.cloud.log("compute-agent").splitlines()
        return [line for line in lines if TIMED_OUT in line and server_id in line]

    def kill(self, part: str) -> None:
        """Kills a program by SIGKILL, and waits until the supervisor has restarted it."""
        before = identity.find(self.cloud.part(part)["pid"])
        assert before is not None
        before.send(signal.SIGKILL)

        def is_replaced() -> bool:
            found = self.cloud.part(part)
            return bool(found["pid"] != before.pid and found["state"] == "running")

        until(is_replaced, f"{part} is restarted")

    def wait_secured(self, port_id: str) -> None:
        """Waits until the compute agent has installed the port's rules."""
        table = f"openimds_{self.cloud.prefix.rstrip('-')}"
        chain = f"chain {tap_name(port_id)} {{"
        until(lambda: chain in shown("nft", "list", "table", "bridge", table), f"the rules of port {port_id}")


@dataclass(frozen=True, slots=True)
class Machine:
    """A server of the external driver and its virtual machine."""

    server_id: str
    port_id: str
    canary: str
    guest: QemuGuest


@pytest.fixture(scope="module")
def up_options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The DHCP agent serves metadata in the network's namespace and announces the route by option 121."""
    file = tmp_path_factory.mktemp("options") / "dhcp.ini"
    file.write_text("[DEFAULT]\nenable_isolated_metadata = True\n")
    return (f"--config-file=dhcp-agent={file}",)


@pytest.fixture(scope="module")
def stage(cloud: Cloud) -> Stage:
    api = ApiClient(cloud)
    return Stage(cloud, api, api.network("n", "10.31.0.0/24"))


@pytest.fixture(scope="module")
def machine(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    stage.api.external_flavor(EXTERNAL)
    port_id, canary = stage.port(), f"canary {secrets.token_hex(8)}"
    encoded = base64.b64encode(canary.encode()).decode()
    server_id = stage.boot("machine", port_id, flavor=EXTERNAL, user_data=encoded)
    console = tmp_path_factory.mktemp("qemu") / "console"
    with (
        tap(tap_name(port_id)) as descriptor,
        qemu_guest(descriptor, stage.show_port(port_id)["mac_address"], console) as guest,
    ):
        yield Machine(server_id, port_id, canary, guest)


def tap_name(port_id: str) -> str:
    return f"tap{port_id[:11]}"


def test_port_created_before_its_server_becomes_active(stage: Stage) -> None:
    port_id = stage.port()
    server_id = stage.boot("early", port_id)
    stage.wait_running(server_id, port_id)
    stage.cloud.wait_booted(server_id, "early")


def test_port_attached_to_a_running_server_becomes_active(stage: Stage) -> None:
    port_id = stage.port()
    server_id = stage.api.server("extended", stage.network)
    until(lambda: stage.status(server_id) == "ACTIVE", "the server is ACTIVE")
    stage.api.attach(server_id, port_id)
    stage.wait_running(server_id, port_id)


@pytest.mark.parametrize(
    "changes",
    [
        ({"mac_address": "fa:16:3e:31:00:01"},),
        ({"port_security_enabled": False, "security_groups": []}, {"port_security_enabled": True}),
        ({"port_security_enabled": False, "security_groups": []},),
    ],
    ids=["mac_address", "port_security_enabled off and on", "port_security_enabled off"],
)
def test_port_updated_before_its_server_becomes_active(stage: Stage, changes: tuple[dict[str, Any], ...]) -> None:
    port_id = stage.port()
    for change in changes:
        stage.update(port_id, **change)
        stage.wait_served(port_id)
    stage.wait_running(stage.boot("updated", port_id), port_id)


def test_port_whose_address_changes_before_its_server_becomes_active(stage: Stage) -> None:
    port_id = stage.port()
    stage.set_address(port_id, ADDRESSES[0])
    stage.wait_served(port_id)
    server_id = stage.boot("moved", port_id)
    stage.wait_running(server_id, port_id)
    stage.cloud.wait_booted(server_id, "moved")
    assert stage.cloud.inside(f"qvm-{server_id}", "hostname", "-I").split() == [ADDRESSES[0]]


def test_port_whose_address_changes_after_its_binding_becomes_active(stage: Stage) -> None:
    port_id = stage.port()
    server_id = stage.boot("moving", port_id)
    stage.set_address(port_id, ADDRESSES[1])
    stage.wait_running(server_id, port_id)
    stage.set_address(port_id, ADDRESSES[2])
    stage.wait_served(port_id)
    stage.wait_active(port_id)
    assert stage.status(server_id) == "ACTIVE"


def test_port_that_moves_between_servers_becomes_active(stage: Stage) -> None:
    port_id = stage.port()
    first, second = stage.boot("first", port_id), stage.boot("second", stage.port())
    stage.wait_running(first, port_id)
    stage.api.detach(first, port_id)
    stage.api.attach(second, port_id)
    stage.wait_active(port_id)
    stage.api.delete("compute", f"/servers/{second}")
    third = stage.boot("third", port_id)
    stage.wait_running(third, port_id)
    stage.cloud.wait_booted(third, "third")
    stage.wait_secured(port_id)


@pytest.mark.parametrize("part", AGENTS)
def test_port_becomes_active_after_a_restart(part: str, stage: Stage) -> None:
    port_id, attached = stage.port(), stage.port()
    stage.cloud.openimds("restart", part)
    server_id = stage.boot("restarted", port_id)
    stage.api.attach(server_id, attached)
    stage.wait_running(server_id, port_id)
    stage.wait_active(attached)


@pytest.mark.parametrize("part", AGENTS)
def test_port_becomes_active_although_a_part_is_killed_during_the_boot(part: str, stage: Stage) -> None:
    port_id = stage.port()
    server_id = stage.boot("killed", port_id)
    stage.kill(part)
    stage.wait_running(server_id, port_id)


def test_virtual_machine_on_a_port_created_before_it_reads_its_own_documents(stage: Stage, machine: Machine) -> None:
    assert machine.guest.document(USER_DATA) == machine.canary
    assert machine.server_id in machine.guest.document(META_DATA)
    stage.wait_running(machine.server_id, machine.port_id)


def test_second_port_does_not_stop_a_running_virtual_machine(stage: Stage, machine: Machine) -> None:
    stage.wait_running(machine.server_id, machine.port_id)
    second = stage.port()
    stage.api.attach(machine.server_id, second)
    stage.wait_secured(second)
    assert stage.show_port(second)["status"] == "DOWN"
    assert stage.status(machine.server_id) == "ACTIVE"
    with tap(tap_name(second)):
        stage.wait_active(second)
    assert stage.status(machine.server_id) == "ACTIVE"
    assert machine.guest.is_running()


def test_tap_of_a_detached_port_leaves_its_bridge(stage: Stage, machine: Machine) -> None:
    """The virtual machine still has the tap, and no rules of the port apply to its packets."""
    port_id = stage.port()
    master = Path("/sys/class/net", tap_name(port_id), "master")
    with tap(tap_name(port_id)):
        stage.api.attach(machine.server_id, port_id)
        stage.wait_active(port_id)
        assert master.exists()
        stage.api.detach(machine.server_id, port_id)
        until(lambda: not master.exists(), "the tap is on no bridge")
    assert stage.status(machine.server_id) == "ACTIVE"
