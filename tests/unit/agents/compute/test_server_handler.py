"""Passes of the compute agent on fakes. The tests compare the reports to the control API."""

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
    """An agent with one server."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.view = FakeView()
        self.view.add(NETWORK, SUBNET, PORT, SERVER)
        self.api = FakeServersApi(self.view)
        self.configurator = FakeNetworkConfigurator()
        self.driver = FakeComputeDriver(folder)
        self.security = FakePortSecurity()
        self.restart()

    def restart(self) -> None:
        """Restarts the agent. The namespaces, rules and instances remain."""
        adapters = ComputeAdapters(
            api=self.api, configurator=self.configurator, port_security=self.security, driver=self.driver
        )
        power = PowerManager(self.api, self.driver, vif_plugging_timeout_seconds=TIMEOUT, clock=lambda: self.now)
        self.servers = ServerHandler(adapters, ComputeSettings(host="node1", owner_uid=231072), power)
        self.reconciler = Reconciler(self.servers)

    def run_pass(self, *, full: bool = False) -> PassReport:
        return self.reconciler.run_pass(self.view, full=full)

    def settle(self) -> str:
        """Runs passes until nothing is reported. Returns the reports."""
        before = len(self.api.reports)
        for _ in range(4):
            self.run_pass()
        return "\n".join(self.api.reports[before:])

    def server(self, **changes: object) -> None:
        self.view.add(dataclasses.replace(self.view.servers["vm1"], **changes))  # type: ignore[arg-type]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def not_expected(key: str, error: Exception) -> None:
    raise AssertionError(f"{key}: {error}")


def test_new_server_gets_filters_and_devices_before_it_boots(stage: Stage) -> None:
    stage.api.waits_for_dhcp = True
    report = stage.run_pass()
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
    (boot,) = stage.driver.boots
    assert (boot.generation, boot.namespace, boot.nics) == (1, "qvm-vm1", "eth0 auto\neth0 dhcp4\n")
    assert stage.settle() == ""


def test_server_of_another_host_is_ignored(stage: Stage) -> None:
    stage.server(host="node2")
    stage.run_pass(full=True)
    assert stage.configurator.states == {}


def test_server_boots_with_inactive_ports_after_the_timeout(stage: Stage) -> None:
    stage.api.waits_for_dhcp = True
    stage.run_pass()
    stage.now = TIMEOUT - 0.1
    stage.servers.step_power(not_expected)
    assert not stage.driver.boots
    stage.now = TIMEOUT
    stage.servers.step_power(not_expected)
    assert len(stage.driver.boots) == 1
    assert stage.api.reports[-1] == "boot 1 of vm1 is running"


def test_boot_waits_for_a_port_that_the_view_lacks(stage: Stage) -> None:
    stage.view.remove(PORT)
    stage.run_pass()
    assert not stage.driver.boots
    stage.view.add(PORT)
    assert stage.settle() == "port 01e7ee7b has l2\nboot 1 of vm1 is running"


def test_reboot_stop_and_start(stage: Stage) -> None:
    stage.settle()
    stage.server(boot_generation=2)
    assert stage.settle() == "boot 2 of vm1 is running"
    stage.server(wanted_power_state="stopped")
    assert stage.settle() == "boot 2 of vm1 is stopped"
    assert stage.driver.states["vm1"] == BootState(2, running=False)
    stage.server(wanted_power_state="running", boot_generation=3)
    assert stage.settle() == "boot 3 of vm1 is running"


def test_reboot_stops_the_old_boot_before_it_waits(stage: Stage) -> None:
    stage.settle()
    stage.api.waits_for_dhcp = True
    stage.view.add(dataclasses.replace(PORT, status="DOWN"))
    stage.server(boot_generation=2)
    stage.run_pass()
    assert stage.driver.states["vm1"] == BootState(1, running=False)


def test_instance_that_exits_stays_off(stage: Stage) -> None:
    stage.settle()
    stage.driver.stop("vm1")
    stage.servers.step_power(not_expected)
    assert stage.api.reports[-1] == "boot 1 of vm1 is stopped"
    stage.settle()
    assert len(stage.driver.boots) == 1


def test_restarted_agent_changes_nothing(stage: Stage) -> None:
    stage.settle()
    stage.restart()
    assert stage.run_pass(full=True).changes == {}
    assert len(stage.driver.boots) == 1
    assert stage.settle() == ""
    assert stage.api.reports[-1] == "boot 1 of vm1 is running"


def test_server_boots_again_after_its_namespace_was_removed(stage: Stage) -> None:
    stage.settle()
    stage.configurator.remove_namespace("qvm-vm1")
    stage.run_pass(full=True)
    assert [boot.generation for boot in stage.driver.boots] == [1, 1]


def test_deleted_server_leaves_nothing(stage: Stage) -> None:
    stage.settle()
    stage.view.remove(SERVER, PORT)
    assert stage.settle() == ""
    assert stage.configurator.states == {}
    assert stage.driver.states == {}
    assert stage.security.filters == {}
    assert stage.servers.report == {}


def test_server_deleted_while_the_agent_was_down_is_removed(stage: Stage) -> None:
    stage.settle()
    stage.view.remove(SERVER, PORT)
    stage.restart()
    stage.run_pass(full=True)
    assert (stage.configurator.states, stage.driver.states, stage.security.filters) == ({}, {}, {})


def test_detached_port_is_reported(stage: Stage) -> None:
    stage.settle()
    stage.server(port_ids=())
    assert stage.settle() == "port 01e7ee7b is unplugged"
    assert stage.security.filters == {}


def test_reused_port_of_a_deleted_server_keeps_its_rules(stage: Stage) -> None:
    stage.settle()
    stage.view.remove(SERVER)
    stage.view.add(
        dataclasses.replace(SERVER, id="vm2"), dataclasses.replace(PORT, binding_generation=3, device_id="vm2")
    )
    stage.run_pass()
    assert set(stage.security.filters) == {PORT.tap_name}
    assert set(stage.configurator.states) == {"qvm-vm2"}


@pytest.mark.parametrize("other", ["vm0", "vm2"])
def test_port_that_is_attached_to_another_server_keeps_its_rules(stage: Stage, other: str) -> None:
    stage.view.remove(SERVER)
    for server_id in sorted(("vm1", other)):
        stage.view.add(dataclasses.replace(SERVER, id=server_id, port_ids=() if server_id == other else (PORT.id,)))
    stage.settle()
    stage.server(port_ids=())
    stage.view.add(dataclasses.replace(SERVER, id=other), dataclasses.replace(PORT, device_id=other))
    stage.run_pass()
    assert set(stage.security.filters) == {PORT.tap_name}


def test_failed_boot_is_reported_once(stage: Stage) -> None:
    stage.driver.broken = "bwrap: no space left on device"
    assert stage.settle() == ("port 01e7ee7b has l2\nboot 1 of vm1 is error: bwrap: no space left on device")
    stage.driver.broken = None
    assert stage.settle() == ""
    stage.server(boot_generation=2)
    assert stage.settle() == "boot 2 of vm1 is running"


def test_failed_report_is_repeated(stage: Stage) -> None:
    stage.api.status = None
    assert stage.run_pass().failures
    stage.now = TIMEOUT
    stage.servers.step_power(lambda key, error: None)
    stage.api.status = 204
    assert stage.settle() == "port 01e7ee7b has l2\nboot 1 of vm1 is running"


def test_report_of_a_deleted_server_is_not_a_failure(stage: Stage) -> None:
    stage.settle()
    stage.api.status = 404
    stage.server(boot_generation=2)
    assert stage.run_pass().failures == {}


def test_external_server_is_plugged_in_when_its_tap_appears(stage: Stage) -> None:
    stage.server(driver="external")
    assert stage.settle() == ""
    stage.configurator.taps.add(PORT.tap_name)
    stage.run_pass(full=True)
    stage.settle()
    assert stage.configurator.plugged == {PORT.tap_name: NETWORK.bridge_name}
    assert stage.api.reports[-2:] == ["port 01e7ee7b has l2", "boot 1 of vm1 is running"]
    assert stage.configurator.states == {}
    assert not stage.driver.boots


def test_new_port_of_a_running_external_server_does_not_stop_it(stage: Stage) -> None:
    stage.configurator.taps.add(PORT.tap_name)
    stage.server(driver="external", status="BUILD")
    stage.run_pass(full=True)
    stage.settle()
    assert stage.api.reports[-1] == "boot 1 of vm1 is running"
    attached = dataclasses.replace(PORT, id="02e7ee7b-0000-4000-8000-000000000000", mac_address="fa:16:3e:00:00:02")
    stage.view.add(attached)
    stage.server(port_ids=(PORT.id, attached.id), status="ACTIVE")
    assert stage.settle() == ""
    stage.servers.step_power(not_expected)
    assert stage.api.reports[-1] == "boot 1 of vm1 is running"


def test_tap_of_an_external_server_is_unplugged_before_its_rules_are_removed(stage: Stage) -> None:
    changes = (f"unplug {PORT.tap_name}", f"remove port security of {PORT.tap_name}")
    stage.configurator.taps.add(PORT.tap_name)
    stage.server(driver="external")
    stage.settle()
    stage.server(port_ids=())
    assert stage.run_pass().changes["vm1"] == changes
    assert stage.configurator.plugged == {}
    stage.server(port_ids=(PORT.id,))
    stage.settle()
    stage.view.remove(SERVER)
    stage.run_pass()
    assert (stage.configurator.plugged, stage.security.filters) == ({}, {})


def test_tap_of_a_port_detached_while_the_agent_was_down_is_unplugged(stage: Stage) -> None:
    stage.configurator.taps.add(PORT.tap_name)
    stage.server(driver="external")
    stage.settle()
    stage.server(port_ids=())
    stage.restart()
    stage.run_pass(full=True)
    assert (stage.configurator.plugged, stage.security.filters) == ({}, {})


def test_tap_without_port_security_stays_on_its_bridge(stage: Stage) -> None:
    stage.configurator.taps.add(PORT.tap_name)
    stage.server(driver="external")
    stage.settle()
    stage.view.add(dataclasses.replace(PORT, port_security_enabled=False))
    stage.run_pass(full=True)
    assert stage.security.filters == {}
    assert set(stage.configurator.plugged) == {PORT.tap_name}


@pytest.mark.parametrize(
    ("status", "desired", "running", "report"),
    [
        ("BUILD", "running", True, "running"),
        ("HARD_REBOOT", "running", True, "running"),
        ("SHUTOFF", "running", True, "running"),
        ("REBUILD", "running", False, "stopped"),
        ("ACTIVE", "running", False, "stopped"),
        ("ACTIVE", "stopped", True, "stopped"),
    ],
)
def test_boot_is_reported_until_the_view_shows_it(
    stage: Stage, status: str, desired: str, running: bool, report: str
) -> None:
    """A control API may forget a report: its database was restored, or the report was about an older state."""
    stage.settle()
    stage.driver.states["vm1"] = BootState(1, running=running)
    stage.servers.step_power(not_expected)
    before = len(stage.api.reports)
    stage.server(status=status, wanted_power_state=desired)
    stage.run_pass(full=True)
    assert stage.api.reports[before:][-1:] == [f"boot 1 of vm1 is {report}"]
    before = len(stage.api.reports)
    stage.servers.step_power(not_expected)
    assert stage.api.reports[before:] == []
    stage.now += REPEAT_SECONDS
    stage.servers.step_power(not_expected)
    assert stage.api.reports[before:] == [f"boot 1 of vm1 is {report}"]
    stage.server(status="ACTIVE" if report == "running" else "SHUTOFF", wanted_power_state=report)
    stage.run_pass(full=True)
    stage.now += REPEAT_SECONDS
    stage.servers.step_power(not_expected)
    assert len(stage.api.reports) == before + 1


def test_late_report_of_a_detached_port_has_its_own_binding_generation(stage: Stage) -> None:
    stage.view.add(dataclasses.replace(PORT, binding_generation=3))
    stage.settle()
    stage.server(port_ids=())
    stage.view.add(dataclasses.replace(PORT, binding_generation=4, device_id="vm2"))
    stage.settle()
    assert stage.api.generations[-1] == ("unplugged", 3)


def test_unknown_driver_and_malformed_port_are_named_in_the_error(stage: Stage) -> None:
    stage.server(driver="qemu")
    assert "there is no driver 'qemu'" in stage.run_pass().failures["vm1"]
    stage.server(driver="netns")
    stage.view.add(dataclasses.replace(PORT, mac_address="nonsense"))
    assert "is not a MAC address" in stage.run_pass().failures["vm1"]
    assert stage.configurator.states == {}


def test_port_that_becomes_malformed_gets_the_closed_filter(stage: Stage) -> None:
    """A resync removes undesired rules, and a tap without rules could send any packet."""
    stage.settle()
    assert stage.security.filters[PORT.tap_name].mac_address == PORT.mac_address
    stage.view.add(dataclasses.replace(PORT, mac_address="nonsense"))
    stage.run_pass(full=True)
    assert stage.security.filters[PORT.tap_name] == closed_filter(PORT)
    assert stage.security.filters[PORT.tap_name].sources == ()


def test_filters_stay_while_a_server_cannot_be_removed(stage: Stage) -> None:
    """A full pass removed the filters of a tap that still existed, because the deletion of its server had failed."""
    stage.run_pass()
    assert PORT.tap_name in stage.security.filters
    stage.driver.irremovable.add("vm1")
    stage.view.remove(SERVER, PORT)
    for _ in range(2):
        stage.run_pass(full=True)
        assert PORT.tap_name in stage.security.filters
    stage.restart()
    stage.run_pass(full=True)
    assert PORT.tap_name in stage.security.filters
    stage.driver.irremovable.clear()
    stage.run_pass(full=True)
    assert stage.configurator.states == {}
    assert stage.security.filters == {}
