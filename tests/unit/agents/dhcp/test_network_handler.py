from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.unit.netconfig.cloud import GUEST_PORT, NETWORK, ROUTER_PORT, SUBNET

from openimds.agents.dhcp.network_handler import DhcpAdapters, DhcpNetworkHandler, DhcpSettings
from openimds.agents.reconciler.reconciler import PassReport, Reconciler
from openimds.agents.testing import (
    AlwaysListeningProbe,
    FakeDaemonManager,
    FakeNetworkConfigurator,
    FakePortsApi,
    FakeView,
)
from openimds.netconfig.dhcp_network import MetadataOptions, dhcp_device_id
from openimds.netconfig.dnsmasq_command import DnsmasqSettings
from openimds.netconfig.haproxy import ProxySettings
from openimds.resources.network import FixedIP

NAMESPACE = f"qdhcp-{NETWORK.id}"
GUEST = replace(GUEST_PORT, status="DOWN")


@dataclass
class Stage:
    view: FakeView
    api: FakePortsApi
    configurator: FakeNetworkConfigurator
    programs: FakeDaemonManager
    networks: DhcpNetworkHandler
    reconciler: Reconciler
    folder: Path

    def run_pass(self, *, full: bool = False) -> PassReport:
        self.api.calls.clear()
        self.programs.events.clear()
        return self.reconciler.run_pass(self.view, full=full)

    def restart(self) -> None:
        """Restarts the agent. The namespaces, ports and programs remain."""
        adapters = DhcpAdapters(
            api=self.api,
            configurator=self.configurator,
            daemons=self.programs,
            probe=AlwaysListeningProbe(),
            run_program=self.programs.run,
        )
        self.networks = DhcpNetworkHandler(adapters, self.networks.settings)
        self.reconciler = Reconciler(self.networks)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    view = FakeView()
    view.add(NETWORK, SUBNET, GUEST)
    api, configurator, programs = FakePortsApi(view), FakeNetworkConfigurator(), FakeDaemonManager()
    settings = DhcpSettings(
        host="node1",
        state_path=tmp_path,
        metadata=MetadataOptions(force_metadata=True),
        dnsmasq=DnsmasqSettings(),
        proxy=ProxySettings(state_path=tmp_path, agent_socket=tmp_path / "agent", log_socket=tmp_path / "log"),
    )
    networks = DhcpNetworkHandler(
        DhcpAdapters(
            api=api, configurator=configurator, daemons=programs, probe=AlwaysListeningProbe(), run_program=programs.run
        ),
        settings,
    )
    return Stage(view, api, configurator, programs, networks, Reconciler(networks), tmp_path)


def test_network_is_created_before_its_ports_are_reported(stage: Stage) -> None:
    assert stage.run_pass().failures == {}
    assert str(stage.configurator) == f"{NAMESPACE}: tap00000001-00(169.254.169.254/16 192.168.40.2/24)"
    assert str(stage.programs).splitlines() == [f"start haproxy in {NAMESPACE}", f"start dnsmasq in {NAMESPACE}"]
    assert str(stage.api).splitlines() == [
        "list ports ['device_id', 'device_owner', 'network_id']",
        f"create port network:dhcp on {NETWORK.id}",
        "port 00000001-0000-4000-8000-0000000000dc has l2",
        f"port {GUEST.id} has dhcp",
    ]
    assert stage.networks.report[NETWORK.id]["metadata_proxy"] is True


def test_second_full_pass_changes_nothing(stage: Stage) -> None:
    stage.run_pass()
    stage.run_pass()  # the view now contains the new DHCP port
    assert stage.run_pass(full=True).changes == {}
    assert stage.api.calls == stage.programs.events == []


def test_new_port_reloads_dnsmasq_without_a_restart(stage: Stage) -> None:
    stage.run_pass()
    stage.view.add(replace(GUEST, id="new", fixed_ips=(FixedIP(SUBNET.id, "192.168.40.9"),)))
    stage.run_pass()
    assert stage.programs.events == [f"SIGHUP to dnsmasq in {NAMESPACE}"]
    assert stage.api.calls == ["port new has dhcp"]
    hosts = (stage.folder / "dhcp" / NETWORK.id / "host").read_text()
    assert "192.168.40.9" in hosts


def test_restarted_agent_only_reloads_dnsmasq(stage: Stage) -> None:
    stage.run_pass()
    stage.restart()
    report = stage.run_pass(full=True)
    assert stage.programs.events == [f"SIGHUP to dnsmasq in {NAMESPACE}"]
    assert report.changes == {NETWORK.id: ("reload dnsmasq (pid 101)",)}


def test_new_subnet_changes_the_port_and_restarts_dnsmasq(stage: Stage) -> None:
    stage.run_pass()
    stage.view.add(replace(SUBNET, id="more", cidr="10.0.0.0/24", gateway_ip="10.0.0.1"))
    stage.run_pass()
    assert stage.api.calls[1] == "update port 00000001-0000-4000-8000-0000000000dc"
    assert stage.programs.events == [f"stop dnsmasq in {NAMESPACE}", f"start dnsmasq in {NAMESPACE}"]
    assert "10.0.0.2/24" in str(stage.configurator)


def test_stale_view_does_not_create_a_second_port(stage: Stage) -> None:
    stage.run_pass()
    port = stage.view.ports.pop("00000001-0000-4000-8000-0000000000dc")
    assert stage.run_pass(full=True).failures == {}
    assert "create" not in str(stage.api)
    stage.view.add(port)


def test_port_deleted_before_the_view_showed_it_is_created_again(stage: Stage) -> None:
    """An agent that cached the created port would serve a port that no longer exists."""
    stage.run_pass()
    stage.api.delete_port("00000001-0000-4000-8000-0000000000dc")
    assert stage.run_pass(full=True).failures == {}
    assert "create port network:dhcp" in str(stage.api)
    assert "00000002-0000-4000-8000-0000000000dc" in stage.view.ports


def test_port_created_by_an_earlier_run_is_found(stage: Stage) -> None:
    own = replace(
        GUEST,
        id="own",
        device_owner="network:dhcp",
        device_id=dhcp_device_id("node1", NETWORK.id),
        fixed_ips=(FixedIP(SUBNET.id, "192.168.40.3"),),
    )
    stage.view.add(own)
    stage.run_pass()
    assert "create" not in str(stage.api)
    assert "192.168.40.3/24" in str(stage.configurator)


def test_isolated_metadata_follows_the_router(stage: Stage) -> None:
    stage.networks.settings = replace(stage.networks.settings, metadata=MetadataOptions(enable_isolated_metadata=True))
    stage.run_pass()
    assert f"start haproxy in {NAMESPACE}" in stage.programs.events
    stage.view.add(ROUTER_PORT)
    stage.run_pass()
    assert f"stop haproxy in {NAMESPACE}" in stage.programs.events
    assert "169.254" not in str(stage.configurator)
    paths = stage.networks.report[NETWORK.id]["way_to_metadata"]
    assert isinstance(paths, dict)
    assert paths[SUBNET.id]["way"] == "router"


def test_leases_of_former_owners_are_released(stage: Stage) -> None:
    stage.run_pass()
    leases = stage.folder / "dhcp" / NETWORK.id / "leases"
    leases.write_text(
        f"1 {GUEST.mac_address} 192.168.40.5 * *\n1 fa:16:3e:ff:ff:ff 192.168.40.9 * *\n"
        "duid 00:01\n1 77 2001:db8::9 * 00:02\n"
    )
    stage.run_pass(full=True)
    assert stage.programs.events == [
        f"dhcp_release tap00000001-00 192.168.40.9 fa:16:3e:ff:ff:ff in {NAMESPACE}",
        f"dhcp_release6 --iface=tap00000001-00 --ip=2001:db8::9 --client-id=00:02 --server-id=00:01 --iaid=77 in {NAMESPACE}",
    ]


def test_network_without_dhcp_is_removed_completely(stage: Stage) -> None:
    stage.run_pass()
    stage.view.add(replace(SUBNET, enable_dhcp=False))
    stage.run_pass()
    assert stage.configurator.states == {}
    assert stage.programs.alive == {}
    assert stage.api.calls == ["delete port 00000001-0000-4000-8000-0000000000dc"]
    assert not (stage.folder / "dhcp" / NETWORK.id).exists()
    assert stage.networks.report == {}


def test_leftovers_of_a_crash_are_removed(stage: Stage) -> None:
    stage.run_pass()
    stage.view.remove(NETWORK, SUBNET)
    stage.restart()
    stage.run_pass(full=True)
    assert stage.configurator.states == {}


def test_idle_bridge_is_removed_after_two_resyncs(stage: Stage) -> None:
    stage.run_pass(full=True)
    stage.view.remove(NETWORK, SUBNET)
    stage.run_pass(full=True)
    assert stage.configurator.made_bridges
    stage.configurator.plugged_bridges = set(stage.configurator.made_bridges)
    stage.run_pass(full=True)
    assert stage.configurator.made_bridges
    stage.configurator.plugged_bridges = set()
    stage.run_pass(full=True)
    assert stage.configurator.made_bridges == set()


def test_network_recovers_when_the_control_api_is_back(stage: Stage) -> None:
    stage.api.broken = True
    assert "away" in stage.run_pass().failures[NETWORK.id]
    stage.api.broken = False
    assert stage.run_pass().failures == {}


def test_network_with_admin_state_down_is_not_served(stage: Stage) -> None:
    stage.view.add(replace(NETWORK, admin_state_up=False))
    stage.run_pass(full=True)
    assert stage.configurator.states == {}
