"""Rounds of the compute agent on fakes: each test reads what the control API is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from openimds.agents.compute.power_manager import PowerManager
from openimds.agents.compute.protocols import ComputeAdapters
from openimds.agents.compute.server_handler import ComputeSettings, ServerHandler
from openimds.agents.provisioning_blocks import REPEAT_SECONDS
from openimds.agents.reconciler.reconciler import PassReport, Reconciler
from openimds.agents.testing import (
    FakeComputeDriver,
    FakeNetworkConfigurator,
    FakePortSecurity,
    FakeServersApi,
    FakeView,
)
from openimds.netconfig.netns_instance import BootState
from openimds.netconfig.port_security import closed_filter
from openimds.resources.network import FixedIP, Network, Port, Subnet
from openimds.resources.server import Server

NETWORK = Network(id="net00000-0000-4000-8000-000000000000", name="n", project_id="p", mtu=1442)
SUBNET = Subnet(id="s", network_id=NETWORK.id, project_id="p", cidr="10.7.0.0/24", gateway_ip="10.7.0.1")
PORT = Port(
    id="01e7ee7b-0000-4000-8000-000000000000",
    network_id=NETWORK.id,
    project_id="p",
    mac_address="fa:16:3e:00:00:01",
    fixed_ips=(FixedIP("s", "10.7.0.5"),),
    device_id="vm1",
    device_owner="compute:nova",
    host="node1",
)
SERVER = Server(
    id="vm1",
    name="vm1",
    project_id="p",
    hostname="vm1",
    host="node1",
    wanted_power_state="running",
    boot_generation=1,
    port_ids=(PORT.id,),
)
TIMEOUT = 15.0


class Stage:
    """An agent that is told of one server."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.view = FakeView()
        self.view.add(NETWORK, SUBNET, PORT, SERVER)
        self.api = FakeServersApi(self.view)
        self.kernel = FakeNetworkConfigurator()
        self.guests = FakeComputeDriver(folder)
        self.security = FakePortSecurity()
        self.restart()

    def restart(self) -> None:
        """The agent ends and starts anew; what it made stays."""
        adapters = ComputeAdapters(
            api=self.api, configurator=self.kernel, port_security=self.security, driver=self.guests
        )
        power = PowerManager(self.api, self.guests, vif_plugging_timeout_seconds=TIMEOUT, clock=lambda: self.now)
        self.servers = ServerHandler(adapters, ComputeSettings(host="node1", owner_uid=231072), power)
        self.rounds = Reconciler(self.servers)

    def round(self, *, everything: bool = False) -> PassReport:
        return self.rounds.run_pass(self.view, full=everything)

    def settle(self) -> str:
        """Rounds until nothing is said any more; what was said."""
        before = len(self.api.said)
        for _ in range(4):
            self.round()
        return "\n".join(self.api.said[before:])

    def server(self, **changes: object) -> None:
        self.view.add(dataclasses.replace(self.view.servers["vm1"], **changes))  # type: ignore[arg-type]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def not_expected(key: str, error: Exception) -> None:
    raise AssertionError(f"{key}: {error}")


def test_a_new_server_is_secured_plugged_and_booted(stage: Stage) -> None:
    stage.api.waits_for_dhcp = True
    report = stage.round()
    assert report.changes == {
        "vm1": ("set port security of tap01e7ee7b-00", "create bridge brqnet00000-00", "create qvm-vm1")
    }
    assert str(stage.api) == "port 01e7ee7b has l2"
    assert stage.servers.report["vm1"] == {
        "generation": 1,
        "power_state": "waiting",
        "waits_for_ports": [PORT.id],
    }
    stage.view.add(dataclasses.replace(PORT, status="ACTIVE"))
    assert stage.settle() == "boot 1 of vm1 is running"
    (boot,) = stage.guests.boots
    assert (boot.generation, boot.namespace, boot.nics) == (1, "qvm-vm1", "eth0 auto\neth0 dhcp4\n")
    assert stage.settle() == ""


def test_another_hosts_server_is_not_ours(stage: Stage) -> None:
    stage.server(host="node2")
    stage.round(everything=True)
    assert stage.kernel.states == {}


def test_boots_without_its_ports_after_a_while(stage: Stage) -> None:
    stage.api.waits_for_dhcp = True
    stage.round()
    stage.now = TIMEOUT - 0.1
    stage.servers.step_power(not_expected)
    assert not stage.guests.boots
    stage.now = TIMEOUT
    stage.servers.step_power(not_expected)
    assert len(stage.guests.boots) == 1
    assert stage.api.said[-1] == "boot 1 of vm1 is running"


def test_a_port_that_is_not_known_yet_is_waited_for(stage: Stage) -> None:
    stage.view.remove(PORT)
    stage.round()
    assert not stage.guests.boots
    stage.view.add(PORT)
    assert stage.settle() == "port 01e7ee7b has l2\nboot 1 of vm1 is running"


def test_reboot_stop_and_start(stage: Stage) -> None:
    stage.settle()
    stage.server(boot_generation=2)
    assert stage.settle() == "boot 2 of vm1 is running"
    stage.server(wanted_power_state="stopped")
    assert stage.settle() == "boot 2 of vm1 is stopped"
    assert stage.guests.states["vm1"] == BootState(2, running=False)
    stage.server(wanted_power_state="running", boot_generation=3)
    assert stage.settle() == "boot 3 of vm1 is running"


def test_a_reboot_ends_the_old_boot_while_it_waits(stage: Stage) -> None:
    stage.settle()
    stage.api.waits_for_dhcp = True
    stage.view.add(dataclasses.replace(PORT, status="DOWN"))
    stage.server(boot_generation=2)
    stage.round()
    assert stage.guests.states["vm1"] == BootState(1, running=False)


def test_a_guest_that_ends_by_itself_is_off_and_stays_off(stage: Stage) -> None:
    stage.settle()
    stage.guests.stop("vm1")
    stage.servers.step_power(not_expected)
    assert stage.api.said[-1] == "boot 1 of vm1 is stopped"
    stage.settle()
    assert len(stage.guests.boots) == 1


def test_an_agent_that_starts_anew_disturbs_nothing(stage: Stage) -> None:
    stage.settle()
    stage.restart()
    assert stage.round(everything=True).changes == {}
    assert len(stage.guests.boots) == 1
    assert stage.settle() == ""
    assert stage.api.said[-1] == "boot 1 of vm1 is running"


def test_a_machine_that_was_taken_down_boots_again(stage: Stage) -> None:
    stage.settle()
    stage.kernel.remove_namespace("qvm-vm1")
    stage.round(everything=True)
    assert [boot.generation for boot in stage.guests.boots] == [1, 1]


def test_a_deleted_server_leaves_nothing(stage: Stage) -> None:
    stage.settle()
    stage.view.remove(SERVER, PORT)
    assert stage.settle() == ""
    assert stage.kernel.states == {}
    assert stage.guests.states == {}
    assert stage.security.filters == {}
    assert stage.servers.report == {}


def test_what_was_deleted_while_the_agent_was_away_is_removed(stage: Stage) -> None:
    stage.settle()
    stage.view.remove(SERVER, PORT)
    stage.restart()
    stage.round(everything=True)
    assert (stage.kernel.states, stage.guests.states, stage.security.filters) == ({}, {}, {})


def test_a_detached_port_is_reported(stage: Stage) -> None:
    stage.settle()
    stage.server(port_ids=())
    assert stage.settle() == "port 01e7ee7b is unplugged"
    assert stage.security.filters == {}


def test_port_of_a_deleted_server_that_is_reused_keeps_its_rules(stage: Stage) -> None:
    stage.settle()
    stage.view.remove(SERVER)
    stage.view.add(
        dataclasses.replace(SERVER, id="vm2"), dataclasses.replace(PORT, binding_generation=3, device_id="vm2")
    )
    stage.round()
    assert set(stage.security.filters) == {PORT.tap_name}
    assert set(stage.kernel.states) == {"qvm-vm2"}


@pytest.mark.parametrize("other", ["vm0", "vm2"])
def test_port_that_is_attached_to_another_server_keeps_its_rules(stage: Stage, other: str) -> None:
    stage.view.remove(SERVER)
    for server_id in sorted(("vm1", other)):
        stage.view.add(dataclasses.replace(SERVER, id=server_id, port_ids=() if server_id == other else (PORT.id,)))
    stage.settle()
    stage.server(port_ids=())
    stage.view.add(dataclasses.replace(SERVER, id=other), dataclasses.replace(PORT, device_id=other))
    stage.round()
    assert set(stage.security.filters) == {PORT.tap_name}


def test_a_guest_that_does_not_start_is_reported_once(stage: Stage) -> None:
    stage.guests.broken = "bwrap: no space left on device"
    assert stage.settle() == ("port 01e7ee7b has l2\nboot 1 of vm1 is error: bwrap: no space left on device")
    stage.guests.broken = None
    assert stage.settle() == ""
    stage.server(boot_generation=2)
    assert stage.settle() == "boot 2 of vm1 is running"


def test_what_could_not_be_reported_is_reported_later(stage: Stage) -> None:
    stage.api.status = None
    assert stage.round().failures
    stage.now = TIMEOUT
    stage.servers.step_power(lambda key, error: None)
    stage.api.status = 204
    assert stage.settle() == "port 01e7ee7b has l2\nboot 1 of vm1 is running"


def test_a_server_that_was_deleted_meanwhile_is_no_failure(stage: Stage) -> None:
    stage.settle()
    stage.api.status = 404
    stage.server(boot_generation=2)
    assert stage.round().failures == {}


def test_an_external_server_is_plugged_when_its_tap_comes(stage: Stage) -> None:
    stage.server(driver="external")
    assert stage.settle() == ""
    stage.kernel.taps.add(PORT.tap_name)
    stage.round(everything=True)
    stage.settle()
    assert stage.kernel.plugged == {PORT.tap_name: NETWORK.bridge_name}
    assert stage.api.said[-2:] == ["port 01e7ee7b has l2", "boot 1 of vm1 is running"]
    assert stage.kernel.states == {}
    assert not stage.guests.boots


def test_new_port_of_a_running_external_server_does_not_stop_it(stage: Stage) -> None:
    stage.kernel.taps.add(PORT.tap_name)
    stage.server(driver="external", status="BUILD")
    stage.round(everything=True)
    stage.settle()
    assert stage.api.said[-1] == "boot 1 of vm1 is running"
    attached = dataclasses.replace(PORT, id="02e7ee7b-0000-4000-8000-000000000000", mac_address="fa:16:3e:00:00:02")
    stage.view.add(attached)
    stage.server(port_ids=(PORT.id, attached.id), status="ACTIVE")
    assert stage.settle() == ""
    stage.servers.step_power(not_expected)
    assert stage.api.said[-1] == "boot 1 of vm1 is running"


def test_tap_of_an_external_server_leaves_its_bridge_before_its_rules_go(stage: Stage) -> None:
    let_go = (f"unplug {PORT.tap_name}", f"remove port security of {PORT.tap_name}")
    stage.kernel.taps.add(PORT.tap_name)
    stage.server(driver="external")
    stage.settle()
    stage.server(port_ids=())
    assert stage.round().changes["vm1"] == let_go
    assert stage.kernel.plugged == {}
    stage.server(port_ids=(PORT.id,))
    stage.settle()
    stage.view.remove(SERVER)
    stage.round()
    assert (stage.kernel.plugged, stage.security.filters) == ({}, {})


def test_tap_whose_port_was_detached_while_the_agent_was_away_leaves_its_bridge(stage: Stage) -> None:
    stage.kernel.taps.add(PORT.tap_name)
    stage.server(driver="external")
    stage.settle()
    stage.server(port_ids=())
    stage.restart()
    stage.round(everything=True)
    assert (stage.kernel.plugged, stage.security.filters) == ({}, {})


def test_tap_whose_port_security_is_switched_off_stays_on_its_bridge(stage: Stage) -> None:
    stage.kernel.taps.add(PORT.tap_name)
    stage.server(driver="external")
    stage.settle()
    stage.view.add(dataclasses.replace(PORT, port_security_enabled=False))
    stage.round(everything=True)
    assert stage.security.filters == {}
    assert set(stage.kernel.plugged) == {PORT.tap_name}


@pytest.mark.parametrize(
    ("status", "wanted", "running", "report"),
    [
        ("BUILD", "running", True, "running"),
        ("HARD_REBOOT", "running", True, "running"),
        ("SHUTOFF", "running", True, "running"),
        ("REBUILD", "running", False, "stopped"),
        ("ACTIVE", "running", False, "stopped"),
        ("ACTIVE", "stopped", True, "stopped"),
    ],
)
def test_boot_is_reported_until_the_control_api_shows_it(
    stage: Stage, status: str, wanted: str, running: bool, report: str
) -> None:
    """A control API may forget a report: its database was restored, or the report was about an older state."""
    stage.settle()
    stage.guests.states["vm1"] = BootState(1, running=running)
    stage.servers.step_power(not_expected)
    before = len(stage.api.said)
    stage.server(status=status, wanted_power_state=wanted)
    stage.round(everything=True)
    assert stage.api.said[before:][-1:] == [f"boot 1 of vm1 is {report}"]
    before = len(stage.api.said)
    stage.servers.step_power(not_expected)
    assert stage.api.said[before:] == []
    stage.now += REPEAT_SECONDS
    stage.servers.step_power(not_expected)
    assert stage.api.said[before:] == [f"boot 1 of vm1 is {report}"]
    stage.server(status="ACTIVE" if report == "running" else "SHUTOFF", wanted_power_state=report)
    stage.round(everything=True)
    stage.now += REPEAT_SECONDS
    stage.servers.step_power(not_expected)
    assert len(stage.api.said) == before + 1


def test_late_report_of_a_detached_port_names_its_binding(stage: Stage) -> None:
    stage.view.add(dataclasses.replace(PORT, binding_generation=3))
    stage.settle()
    stage.server(port_ids=())
    stage.view.add(dataclasses.replace(PORT, binding_generation=4, device_id="vm2"))
    stage.settle()
    assert stage.api.generations[-1] == ("unplugged", 3)


def test_an_unknown_driver_and_a_malformed_port_are_named(stage: Stage) -> None:
    stage.server(driver="qemu")
    assert "there is no driver 'qemu'" in stage.round().failures["vm1"]
    stage.server(driver="netns")
    stage.view.add(dataclasses.replace(PORT, mac_address="nonsense"))
    assert "is no MAC address" in stage.round().failures["vm1"]
    assert stage.kernel.states == {}


def test_port_that_becomes_malformed_may_send_nothing(stage: Stage) -> None:
    """A full round removes the rules that it does not want, and a tap without rules may send anything."""
    stage.settle()
    assert stage.security.filters[PORT.tap_name].mac_address == PORT.mac_address
    stage.view.add(dataclasses.replace(PORT, mac_address="nonsense"))
    stage.round(everything=True)
    assert stage.security.filters[PORT.tap_name] == closed_filter(PORT)
    assert stage.security.filters[PORT.tap_name].sources == ()
