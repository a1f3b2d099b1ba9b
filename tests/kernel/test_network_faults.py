"""Missing programs, and truncated or damaged files on a host: each is reported, and everything else works."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kernel.dhcp_stage import Stage, curl, pid_of
from tests.kernel.lab import Lab, lab_stage
from tests.kernel.stage import Host
from tests.waiting import until

from openimds.agents.dhcp.network_handler import DhcpAdapters as DhcpEdges
from openimds.agents.dhcp.network_handler import DhcpNetworkHandler
from openimds.agents.l3.router_handler import FloatingIpConntrack
from openimds.agents.reconciler.reconciler import Reconciler
from openimds.agents.testing import FakePortsApi
from openimds.linux import sysctl
from openimds.linux.errors import ProgramError
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.process.daemons import PidFileDaemons, run
from openimds.linux.process.identity import is_alive
from openimds.netconfig.dhcp_network import MetadataOptions
from openimds.resources.network import FloatingIP, Port, Subnet
from openimds.runtime.host_checks import check_ipv6

pytestmark = pytest.mark.kernel

GARBAGE = b"\xff\xfe\x00 garbage, no text\n1796000000 aa bb cc dd\nfa:16:3e:00:00:01,"


@pytest.fixture
def lab(host: Host) -> Iterator[Lab]:
    with lab_stage(host) as made:
        yield made


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid))


def restarted(stage: Stage, run_program: object = run) -> None:
    """A new DHCP agent, without any state of the former one."""
    adapters = DhcpEdges(
        api=FakePortsApi(stage.view, int(stage.host.tag, 16) + 1000),
        configurator=stage.host.kernel,
        daemons=PidFileDaemons(),
        probe=NamespaceProbe(stage.host.kernel.handles),
        run_program=run_program,  # type: ignore[arg-type]
    )
    stage.networks = DhcpNetworkHandler(adapters, stage.networks.settings)
    stage.rounds = Reconciler(stage.networks)


@pytest.mark.parametrize("damage", ["empty", "half", "garbage"])
@pytest.mark.parametrize("name", ["host", "addn_hosts", "opts", "leases", "pid", "interface"])
def test_damaged_file_of_dnsmasq_is_repaired(lab: Lab, name: str, damage: str) -> None:
    """The agent has just been started, beside a dnsmasq that was killed."""
    stage = lab.network
    port = stage.port("192.168.40.77")
    stage.round(everything=True)
    guest = stage.boot(port)
    path = stage.folder / "dhcp" / stage.network.id / name
    before = path.read_bytes()
    kill(pid_of(stage, "dnsmasq"))
    path.write_bytes({"empty": b"", "half": before[: len(before) // 2], "garbage": GARBAGE}[damage])
    restarted(stage)
    stage.round(everything=True)
    assert stage.configure(guest)["ip"] == "192.168.40.77"
    assert curl(guest) == "hello"
    if name in ("host", "addn_hosts", "opts", "interface"):
        assert path.read_bytes() == before
    assert stage.round(everything=True) == []


@pytest.mark.parametrize("content", [b"", b"global\n  log", GARBAGE], ids=["empty", "half", "garbage"])
def test_damaged_configuration_of_a_proxy_is_repaired(lab: Lab, content: bytes) -> None:
    stage = lab.network
    lab.route(stage.subnet)
    port = stage.port("192.168.40.77")
    lab.round()
    guest = stage.boot(port)
    folder = stage.folder / "ns-metadata-proxy"
    before = {path: path.read_bytes() for path in folder.glob("*.conf")}
    assert len(before) == 2
    kill(pid_of(stage, "haproxy"))
    for path in before:
        path.write_bytes(content)
    restarted(stage)
    lab.round()
    assert {path: path.read_bytes() for path in folder.glob("*.conf")} == before
    assert curl(guest) == "hello"
    assert lab.round() == []


def test_address_is_leased_to_its_new_owner_without_dhcp_release(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    stage = lab.network

    def without(argv: Sequence[str], *, namespace: str | None = None) -> str:
        if argv[0].startswith("dhcp_release"):
            raise ProgramError(argv[0], "is not installed (looked in PATH)")
        return run(argv, namespace=namespace)

    restarted(stage, without)
    first = stage.port("192.168.40.77")
    stage.round(everything=True)
    stage.boot(first)
    stage.view.remove(first)
    second = stage.port("192.168.40.77")
    stage.round()
    assert "dhcp_release: is not installed" in capsys.readouterr().out
    assert stage.lease(stage.plug(second))["ip"] == "192.168.40.77"
    assert stage.round(everything=True) == []


def test_missing_conntrack_is_logged_once_and_floating_ips_work(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    stage = lab.network
    lab.route(stage.subnet)
    lab.round()

    def without(argv: Sequence[str], *, namespace: str | None = None) -> str:
        raise ProgramError(argv[0], "is not installed (looked in PATH)")

    lab.routers._conntrack = FloatingIpConntrack(without)
    floating = FloatingIP(
        id="f",
        project_id="p",
        floating_network_id="e",
        floating_ip_address="203.0.113.7",
        fixed_ip_address="192.168.40.77",
        port_id="x",
        router_id=lab.router.id,
    )
    view = lab.router_rounds
    for _ in range(2):
        ends_with(lab, floating)
    assert view is lab.router_rounds
    said = capsys.readouterr().out
    assert said.count("install conntrack") == 1
    assert "conntrack: is not installed" in said


def ends_with(lab: Lab, floating: FloatingIP) -> None:
    """The connections of a floating IP that is added and removed."""
    stage = lab.network
    (found,) = (one.view for one in lab.routers.desired(stage.view).values())
    lab.routers._conntrack.delete_stale(replace(found, floating_ips=(floating,)), lab.qrouter)
    lab.routers._conntrack.delete_stale(found, lab.qrouter)


def both_versions(stage: Stage) -> tuple[Subnet, Port]:
    subnet = Subnet(
        id=str(uuid.uuid4()),
        network_id=stage.network.id,
        project_id="p",
        ip_version=6,
        cidr="2001:db8::/64",
        gateway_ip="2001:db8::1",
        ipv6_ra_mode="slaac",
        ipv6_address_mode="slaac",
    )
    stage.view.add(subnet)
    return subnet, stage.port("192.168.40.77")


def test_kernel_without_ipv6_serves_ipv4(lab: Lab) -> None:
    stage = lab.network
    subnet, port = both_versions(stage)
    stage.networks.settings = replace(stage.networks.settings, has_ipv6=False)
    lab.routers.settings = replace(lab.routers.settings, has_ipv6=False)
    lab.route(stage.subnet, subnet)
    lab.round()
    guest = stage.boot(port)
    assert curl(guest) == "hello"
    choice = MetadataOptions()
    stage.networks.settings = replace(stage.networks.settings, metadata=choice)
    lab.round()
    stage.configure(guest)
    run(["ip", "neigh", "flush", "all"], namespace=guest)
    assert curl(guest) == "hello", "by the router"
    for namespace in (stage.namespace, lab.qrouter):
        shown = run(["ip", "-6", "addr"], namespace=namespace)
        assert "2001:db8:" not in shown
        assert "a9fe" not in shown
        assert "[::]:9697" not in run(["ss", "-lnt"], namespace=namespace)
    assert "metadata" not in run(["ip6tables-save"], namespace=lab.qrouter)
    assert not (stage.folder / "ra").exists()
    (own,) = (one for one in stage.view.ports.values() if one.device_owner == "network:dhcp")
    assert len(own.fixed_ips) == 2, "what the control API gave to the DHCP port is left to it"
    assert lab.round() == []


def test_kernel_without_ipv6_is_detected_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_ipv6.cache_clear()
    assert check_ipv6()
    check_ipv6.cache_clear()
    (tmp_path / "net/ipv4/conf").mkdir(parents=True)
    monkeypatch.setattr(sysctl, "PROC_SYS", tmp_path)
    assert not check_ipv6()
    assert not check_ipv6()
    assert capsys.readouterr().out.count("IPv6 absent from this kernel") == 1
    check_ipv6.cache_clear()


def test_ipv6_disabled_in_a_namespace_is_enabled_again(lab: Lab) -> None:
    stage = lab.network
    subnet, port = both_versions(stage)
    lab.route(stage.subnet, subnet)
    lab.round()
    guest = stage.boot(port)
    for namespace in (stage.namespace, lab.qrouter):
        run(["sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1"], namespace=namespace)
        assert "2001:db8:" not in run(["ip", "-6", "addr"], namespace=namespace)
    assert curl(guest) == "hello"
    lab.round()
    for namespace in (stage.namespace, lab.qrouter):
        assert "2001:db8:" in run(["ip", "-6", "addr"], namespace=namespace)
    assert lab.round() == []
