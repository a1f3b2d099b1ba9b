from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.unit.netconfig.cloud import (
    EXTERNAL,
    EXTERNAL_SUBNET,
    FLOATING,
    GATEWAY_PORT,
    NETWORK,
    ROUTER,
    ROUTER_PORT,
    SUBNET,
    subnet_v6,
)

from openimds.agents.l3.router_handler import L3Adapters, L3Settings, RouterHandler
from openimds.agents.reconciler.reconciler import PassReport, Reconciler
from openimds.agents.testing import (
    AlwaysListeningProbe,
    FakeDaemonManager,
    FakeNetworkConfigurator,
    FakePortsApi,
    FakeView,
)
from openimds.netconfig.haproxy import ProxySettings
from openimds.netconfig.radvd import RadvdSettings
from openimds.netconfig.router_namespace import RouterMetadata
from openimds.resources.network import FixedIP

NAMESPACE = "qrouter-router-1"


@dataclass
class Stage:
    view: FakeView
    api: FakePortsApi
    configurator: FakeNetworkConfigurator
    programs: FakeDaemonManager
    routers: RouterHandler
    reconciler: Reconciler
    announced: list[str]

    def run_pass(self, *, full: bool = False) -> PassReport:
        self.api.calls.clear()
        self.programs.events.clear()
        self.announced.clear()
        report = self.reconciler.run_pass(self.view, full=full)
        assert report.failures == {}
        return report


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    view = FakeView()
    view.add(NETWORK, SUBNET, EXTERNAL, EXTERNAL_SUBNET, ROUTER, ROUTER_PORT, GATEWAY_PORT)
    api, configurator, programs = FakePortsApi(view), FakeNetworkConfigurator(), FakeDaemonManager()
    announced: list[str] = []
    settings = L3Settings(
        metadata=RouterMetadata(),
        proxy=ProxySettings(state_path=tmp_path, agent_socket=tmp_path / "agent", log_socket=tmp_path / "log"),
        advertisements=RadvdSettings(state_path=tmp_path),
    )
    adapters = L3Adapters(
        api=api,
        configurator=configurator,
        daemons=programs,
        probe=AlwaysListeningProbe(),
        run_program=programs.run,
        announce=lambda namespace, device, address: announced.append(f"{address} at {device} in {namespace}"),
    )
    routers = RouterHandler(adapters, settings)
    return Stage(view, api, configurator, programs, routers, Reconciler(routers), announced)


def test_router_is_created_announced_and_reported(stage: Stage) -> None:
    stage.run_pass()
    assert str(stage.configurator) == f"{NAMESPACE}: qr-bbbbbbbb-bb(192.168.40.1/24) qg-cccccccc-cc(203.0.113.5/24)"
    assert stage.programs.events == [f"start haproxy in {NAMESPACE}"]
    assert stage.announced == [
        f"203.0.113.5 at qg-cccccccc-cc in {NAMESPACE}",
        f"192.168.40.1 at qr-bbbbbbbb-bb in {NAMESPACE}",
    ]
    assert stage.api.calls == [f"port {ROUTER_PORT.id} has l2", f"port {GATEWAY_PORT.id} has l2"]
    assert stage.routers.report["router-1"]["metadata_proxy"] is True


def test_second_full_pass_changes_nothing(stage: Stage) -> None:
    stage.run_pass()
    assert stage.run_pass(full=True).changes == {}
    assert stage.api.calls == stage.programs.events == stage.announced == []


def test_floating_ip_is_announced_moved_and_removed(stage: Stage) -> None:
    stage.run_pass()
    stage.view.add(FLOATING)
    stage.run_pass()
    assert stage.announced == [f"203.0.113.50 at qg-cccccccc-cc in {NAMESPACE}"]
    stage.view.add(replace(FLOATING, fixed_ip_address="192.168.40.6"))
    stage.run_pass()
    assert stage.programs.events == [
        f"conntrack -D --orig-dst 203.0.113.50 in {NAMESPACE}",
        f"conntrack -D --orig-src 192.168.40.5 --reply-dst 203.0.113.50 in {NAMESPACE}",
    ]
    stage.view.add(replace(FLOATING, fixed_ip_address=None, router_id=None))
    stage.run_pass()
    assert "203.0.113.50" not in str(stage.configurator)


def test_missing_conntrack_entry_is_not_a_failure(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(argv: object, *, namespace: str | None = None) -> str:
        raise RuntimeError("conntrack: 0 flow entries have been deleted")

    monkeypatch.setattr(stage.routers._conntrack, "_run", refuse)
    stage.view.add(FLOATING)
    stage.run_pass()
    stage.view.remove(FLOATING)
    stage.run_pass()


def test_proxy_stops_with_the_last_internal_network(stage: Stage) -> None:
    stage.run_pass()
    stage.view.remove(ROUTER_PORT)
    stage.run_pass()
    assert stage.programs.events == [f"stop haproxy in {NAMESPACE}"]
    assert str(stage.configurator) == f"{NAMESPACE}: qg-cccccccc-cc(203.0.113.5/24)"


def test_port_waits_for_its_network(stage: Stage) -> None:
    stage.view.remove(NETWORK)
    stage.run_pass()
    assert "qr-" not in str(stage.configurator)


def test_interface_with_admin_state_down_is_removed(stage: Stage) -> None:
    """As in Neutron. It stayed plugged before."""
    stage.run_pass()
    stage.view.add(replace(ROUTER_PORT, admin_state_up=False))
    stage.run_pass()
    assert str(stage.configurator) == f"{NAMESPACE}: qg-cccccccc-cc(203.0.113.5/24)"


def test_router_with_admin_state_down_has_no_devices_and_no_proxy(stage: Stage) -> None:
    stage.run_pass()
    stage.view.add(replace(ROUTER, admin_state_up=False))
    stage.run_pass()
    assert str(stage.configurator) == f"{NAMESPACE}: "
    assert stage.programs.events == [f"stop haproxy in {NAMESPACE}"]


def test_resync_applies_new_settings(stage: Stage) -> None:
    stage.run_pass()
    stage.routers.settings = replace(stage.routers.settings, metadata=RouterMetadata(enable_metadata_proxy=False))
    assert "stop haproxy" in stage.run_pass(full=True).changes["router-1"]


def test_radvd_runs_while_an_ipv6_subnet_needs_it(stage: Stage) -> None:
    stage.view.add(subnet_v6(ipv6_ra_mode="slaac"))
    stage.view.add(replace(ROUTER_PORT, fixed_ips=(*ROUTER_PORT.fixed_ips, FixedIP("subnet-6", "2001:db8::1"))))
    stage.run_pass()
    assert f"start radvd in {NAMESPACE}" in stage.programs.events
    stage.view.add(subnet_v6(ipv6_ra_mode="dhcpv6-stateless"))
    stage.run_pass()
    assert stage.programs.events == [f"stop radvd in {NAMESPACE}", f"start radvd in {NAMESPACE}"]
    stage.view.add(ROUTER_PORT)
    stage.run_pass()
    assert stage.programs.events == [f"stop radvd in {NAMESPACE}"]


def test_deleted_router_leaves_nothing(stage: Stage) -> None:
    stage.run_pass()
    stage.view.remove(ROUTER)
    report = stage.run_pass()
    assert report.changes == {"router-1": (f"remove {NAMESPACE}",)}
    assert stage.configurator.states == {}
    assert stage.programs.alive == {}
    assert stage.routers.report == {}
