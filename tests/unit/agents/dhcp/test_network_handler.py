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
    kernel: FakeNetworkConfigurator
    programs: FakeDaemonManager
    networks: DhcpNetworkHandler
    rounds: Reconciler
    folder: Path

    def round(self, *, everything: bool = False) -> PassReport:
        self.api.calls.clear()
        self.programs.events.clear()
        return self.rounds.run_pass(self.view, full=everything)

    def restart(self) -> None:
        """The agent, not what it made."""
        adapters = DhcpAdapters(
            api=self.api,
            configurator=self.kernel,
            daemons=self.programs,
            probe=AlwaysListeningProbe(),
            run_program=self.programs.run,
        )
        self.networks = DhcpNetworkHandler(adapters, self.networks.settings)
        self.rounds = Reconciler(self.networks)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    view = FakeView()
    view.add(NETWORK, SUBNET, GUEST)
    api, kernel, programs = FakePortsApi(view), FakeNetworkConfigurator(), FakeDaemonManager()
    settings = DhcpSettings(
        host="node1",
        state_path=tmp_path,
        metadata=MetadataOptions(force_metadata=True),
        dnsmasq=DnsmasqSettings(),
        proxy=ProxySettings(state_path=tmp_path, agent_socket=tmp_path / "agent", log_socket=tmp_path / "log"),
    )
    networks = DhcpNetworkHandler(
        DhcpAdapters(
            api=api, configurator=kernel, daemons=programs, probe=AlwaysListeningProbe(), run_program=programs.run
        ),
        settings,
    )
    return Stage(view, api, kernel, programs, networks, Reconciler(networks), tmp_path)


def test_network_is_made_and_its_ports_are_reported_last(stage: Stage) -> None:
    assert stage.round().failures == {}
    assert str(stage.kernel) == f"{NAMESPACE}: tap00000001-00(169.254.169.254/16 192.168.40.2/24)"
    assert str(stage.programs).splitlines() == [f"start haproxy in {NAMESPACE}", f"start dnsmasq in {NAMESPACE}"]
    assert str(stage.api).splitlines() == [
        "list ports ['device_id', 'device_owner', 'network_id']",
        f"create port network:dhcp on {NETWORK.id}",
        "port 00000001-0000-4000-8000-0000000000dc has l2",
        f"port {GUEST.id} has dhcp",
    ]
    assert stage.networks.report[NETWORK.id]["metadata_proxy"] is True


def test_nothing_is_done_twice(stage: Stage) -> None:
    stage.round()
    stage.round()  # the watch tells of the new DHCP port
    assert stage.round(everything=True).changes == {}
    assert stage.api.calls == stage.programs.events == []


def test_new_guest_is_a_hangup_not_a_restart(stage: Stage) -> None:
    stage.round()
    stage.view.add(replace(GUEST, id="new", fixed_ips=(FixedIP(SUBNET.id, "192.168.40.9"),)))
    stage.round()
    assert stage.programs.events == [f"SIGHUP to dnsmasq in {NAMESPACE}"]
    assert stage.api.calls == ["port new has dhcp"]
    hosts = (stage.folder / "dhcp" / NETWORK.id / "host").read_text()
    assert "192.168.40.9" in hosts


def test_agent_that_was_restarted_lets_dnsmasq_read_again_and_leaves_the_rest(stage: Stage) -> None:
    stage.round()
    stage.restart()
    report = stage.round(everything=True)
    assert stage.programs.events == [f"SIGHUP to dnsmasq in {NAMESPACE}"]
    assert report.changes == {NETWORK.id: ("let dnsmasq (pid 101) read its files",)}


def test_new_subnet_changes_the_port_and_restarts_dnsmasq(stage: Stage) -> None:
    stage.round()
    stage.view.add(replace(SUBNET, id="more", cidr="10.0.0.0/24", gateway_ip="10.0.0.1"))
    stage.round()
    assert stage.api.calls[1] == "update port 00000001-0000-4000-8000-0000000000dc"
    assert stage.programs.events == [f"stop dnsmasq in {NAMESPACE}", f"start dnsmasq in {NAMESPACE}"]
    assert "10.0.0.2/24" in str(stage.kernel)


def test_stale_view_does_not_make_a_second_port(stage: Stage) -> None:
    stage.round()
    made = stage.view.ports.pop("00000001-0000-4000-8000-0000000000dc")
    assert stage.round(everything=True).failures == {}
    assert "create" not in str(stage.api)
    stage.view.add(made)


def test_port_deleted_before_the_view_showed_it_is_created_again(stage: Stage) -> None:
    """An agent that remembers the port it created would serve a port that no longer exists."""
    stage.round()
    stage.api.delete_port("00000001-0000-4000-8000-0000000000dc")
    assert stage.round(everything=True).failures == {}
    assert "create port network:dhcp" in str(stage.api)
    assert "00000002-0000-4000-8000-0000000000dc" in stage.view.ports


def test_port_made_by_an_earlier_run_is_found(stage: Stage) -> None:
    own = replace(
        GUEST,
        id="own",
        device_owner="network:dhcp",
        device_id=dhcp_device_id("node1", NETWORK.id),
        fixed_ips=(FixedIP(SUBNET.id, "192.168.40.3"),),
    )
    stage.view.add(own)
    stage.round()
    assert "create" not in str(stage.api)
    assert "192.168.40.3/24" in str(stage.kernel)


def test_isolated_metadata_follows_the_router(stage: Stage) -> None:
    stage.networks.settings = replace(stage.networks.settings, metadata=MetadataOptions(enable_isolated_metadata=True))
    stage.round()
    assert f"start haproxy in {NAMESPACE}" in stage.programs.events
    stage.view.add(ROUTER_PORT)
    stage.round()
    assert f"stop haproxy in {NAMESPACE}" in stage.programs.events
    assert "169.254" not in str(stage.kernel)
    ways = stage.networks.report[NETWORK.id]["way_to_metadata"]
    assert isinstance(ways, dict)
    assert ways[SUBNET.id]["way"] == "router"


def test_leases_of_other_owners_are_released(stage: Stage) -> None:
    stage.round()
    leases = stage.folder / "dhcp" / NETWORK.id / "leases"
    leases.write_text(
        f"1 {GUEST.mac_address} 192.168.40.5 * *\n1 fa:16:3e:ff:ff:ff 192.168.40.9 * *\n"
        "duid 00:01\n1 77 2001:db8::9 * 00:02\n"
    )
    stage.round(everything=True)
    assert stage.programs.events == [
        f"dhcp_release tap00000001-00 192.168.40.9 fa:16:3e:ff:ff:ff in {NAMESPACE}",
        f"dhcp_release6 --iface=tap00000001-00 --ip=2001:db8::9 --client-id=00:02 --server-id=00:01 --iaid=77 in {NAMESPACE}",
    ]


def test_network_without_dhcp_is_taken_down_whole(stage: Stage) -> None:
    stage.round()
    stage.view.add(replace(SUBNET, enable_dhcp=False))
    stage.round()
    assert stage.kernel.states == {}
    assert stage.programs.alive == {}
    assert stage.api.calls == ["delete port 00000001-0000-4000-8000-0000000000dc"]
    assert not (stage.folder / "dhcp" / NETWORK.id).exists()
    assert stage.networks.report == {}


def test_what_a_crash_left_is_cleaned_up(stage: Stage) -> None:
    stage.round()
    stage.view.remove(NETWORK, SUBNET)
    stage.restart()
    stage.round(everything=True)
    assert stage.kernel.states == {}


def test_idle_bridge_goes_after_two_full_rounds(stage: Stage) -> None:
    stage.round(everything=True)
    stage.view.remove(NETWORK, SUBNET)
    stage.round(everything=True)
    assert stage.kernel.made_bridges
    stage.kernel.plugged_bridges = set(stage.kernel.made_bridges)
    stage.round(everything=True)
    assert stage.kernel.made_bridges
    stage.kernel.plugged_bridges = set()
    stage.round(everything=True)
    assert stage.kernel.made_bridges == set()


def test_away_control_api_is_a_failure_that_heals(stage: Stage) -> None:
    stage.api.broken = True
    assert "away" in stage.round().failures[NETWORK.id]
    stage.api.broken = False
    assert stage.round().failures == {}


def test_switched_off_network_is_not_served(stage: Stage) -> None:
    stage.view.add(replace(NETWORK, admin_state_up=False))
    stage.round(everything=True)
    assert stage.kernel.states == {}
