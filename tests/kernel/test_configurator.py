"""Namespaces, devices, routes and rules on the real kernel."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest
import structlog
from tests.kernel.stage import Host, pings
from tests.waiting import HANG_SECONDS, until

from openimds.linux.configure.cleanup import remove_everything
from openimds.linux.errors import ConfigureError, ProgramError
from openimds.linux.netns import netns
from openimds.linux.process import by_namespace
from openimds.linux.process.daemons import run
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState, Route, Rules

pytestmark = pytest.mark.kernel

REDIRECT = "-A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697"
MAC = "fa:16:3e:0a:0b:0c"


def router_like(host: Host) -> NamespaceState:
    device = Device(
        name=host.tap(),
        host_name=host.tap(),
        bridge=host.bridge(),
        mac_address=MAC,
        mtu=1442,
        addresses=frozenset({"192.168.40.1/24", "169.254.169.254/32", "fd00:40::1/64", "fe80::a9fe:a9fe/64"}),
    )
    return NamespaceState(
        name=host.namespace("qrouter-1"),
        devices=(device,),
        routes=frozenset({Route("0.0.0.0/0", "192.168.40.254", device.name), Route("10.9.0.0/16", None, device.name)}),
        sysctls={"net.ipv4.ip_forward": "1", f"net.ipv6.conf.{device.name}.accept_ra": "0"},
        ipv4_rules=Rules({"nat": (REDIRECT,), "filter": (":own - [0:0]", "-A INPUT -j own", "-A own -j ACCEPT")}),
    )


def make(host: Host, desired: NamespaceState) -> tuple[str, ...]:
    host.kernel.ensure_bridge(Bridge(name=host.bridge(), mtu=1442))
    return host.kernel.apply(desired)


def test_namespace_is_applied_once(host: Host) -> None:
    desired = router_like(host)
    assert make(host, desired)
    actual = host.kernel.actual(desired.name, desired)
    assert actual is not None
    assert dataclasses.replace(actual, ipv4_rules=desired.ipv4_rules) == desired
    assert make(host, desired) == ()
    links = host.kernel.links(desired.name)
    assert links[host.tap()].mac_address == MAC
    assert links["lo"].up
    assert host.kernel.links()[host.tap()].mtu == 1442
    assert host.kernel.namespaces() == {desired.name}
    assert host.kernel.bridges() == {host.bridge()}


def test_host_has_no_address_on_a_tenants_segment(host: Host) -> None:
    make(host, router_like(host))
    for name in (host.bridge(), host.tap()):
        assert run(["ip", "-o", "addr", "show", "dev", name]) == ""


def test_setting_missing_in_the_kernel_is_skipped(host: Host) -> None:
    """As with IPv6 disabled, or on an older kernel: the setting is logged once, and everything else is applied."""
    router = router_like(host)
    device = router.devices[0].name
    lacking = {f"net.ipv4.no_such_{host.tag}": "1", f"net.ipv6.conf.{device}.no_such_{host.tag}": "0"}
    desired = dataclasses.replace(router, sysctls={**router.sysctls, **lacking})
    with structlog.testing.capture_logs() as logs:
        changes = make(host, desired)
        assert make(host, desired) == ()
    assert any("ip_forward" in words for words in changes)
    assert not any("no_such" in words for words in changes)
    logged = [line["setting"] for line in logs if "kernel setting missing" in line["event"]]
    assert sorted(logged) == [f"net.ipv4.no_such_{host.tag}", f"net.ipv6.conf.<device>.no_such_{host.tag}"]


def test_only_differences_are_changed_and_counters_survive(host: Host) -> None:
    desired = router_like(host)
    make(host, desired)
    until(lambda: pings(desired.name, "192.168.40.1"))
    own = next(line for line in run(["iptables-save", "-c"], namespace=desired.name).splitlines() if " own" in line[8:])
    assert not own.startswith("[0:0]")
    more = Rules({**desired.ipv4_rules.tables, "filter": (*desired.ipv4_rules.tables["filter"], "-A OUTPUT -j ACCEPT")})
    device = dataclasses.replace(
        desired.devices[0],
        addresses=frozenset({"192.168.40.2/24", "169.254.169.254/32"}),
        mac_address="fa:16:3e:ff:00:01",
    )
    changed = dataclasses.replace(
        desired,
        devices=(device,),
        ipv4_rules=more,
        routes=frozenset({Route("0.0.0.0/0", "192.168.40.253", device.name)}),
    )
    done = host.kernel.apply(changed)
    assert "replace ipv4 table filter (3 rules)" in done
    assert not any("table nat" in words for words in done)
    assert "set mac_address of device " + device.name in done
    assert not any("add device" in words for words in done)
    assert host.kernel.apply(changed) == ()
    saved = run(["iptables-save", "-c"], namespace=desired.name).splitlines()
    assert own in saved


def test_foreign_changes_are_repaired(host: Host) -> None:
    desired = router_like(host)
    make(host, desired)
    run(["ip", "link", "set", host.tap(), "nomaster"])
    run(["ip", "link", "set", host.tap(), "down"])
    run(["ip", "addr", "add", "10.1.2.3/24", "dev", host.tap()], namespace=desired.name)
    run(["iptables", "-t", "nat", "-F"], namespace=desired.name)
    run(["iptables", "-t", "mangle", "-A", "INPUT", "-j", "DROP"], namespace=desired.name)
    assert host.kernel.apply(desired)
    assert host.kernel.apply(desired) == ()
    run(["ip", "link", "del", host.bridge()])
    assert make(host, desired)
    run(["ip", "netns", "del", desired.name])
    assert make(host, desired)
    assert host.kernel.apply(desired) == ()


def test_apply_goes_on_after_a_failure_and_reports_all(host: Host) -> None:
    desired = router_like(host)
    orphan = dataclasses.replace(desired.devices[0], name="qg-x", host_name=host.tap(7), bridge="brq-none")
    host.kernel.ensure_bridge(Bridge(name=host.bridge(), mtu=1442))
    with pytest.raises(ConfigureError) as caught:
        host.kernel.apply(dataclasses.replace(desired, devices=(orphan, *desired.devices)))
    assert "bridge brq-none does not exist" in str(caught.value)
    actual = host.kernel.actual(desired.name)
    assert actual is not None
    assert [device.name for device in actual.devices] == [host.tap()]


def test_namespace_is_removed_with_its_processes(host: Host) -> None:
    desired = router_like(host)
    make(host, desired)
    sleeper = netns.run_in(desired.name, lambda: subprocess.Popen(["sleep", "600"]))
    assert by_namespace.processes_in(desired.name) == {sleeper.pid}
    host.kernel.remove_namespace(desired.name)
    assert sleeper.wait(timeout=HANG_SECONDS) != 0
    assert desired.name not in netns.list_names()
    assert host.tap() not in host.kernel.links()
    host.kernel.remove_namespace(desired.name)
    assert host.kernel.remove_bridge(host.bridge())
    assert host.kernel.remove_bridge(host.bridge())
    assert host.ownership.names("link") == set()
    assert host.ownership.names("netns") == set()


def test_bridge_with_ports_is_not_removed(host: Host) -> None:
    make(host, router_like(host))
    assert not host.kernel.remove_bridge(host.bridge())


def test_error_of_a_program_contains_its_stderr(host: Host) -> None:
    with pytest.raises(ProgramError, match=r"network namespace .* does not exist"):
        run(["true"], namespace=host.namespace("none"))
    with pytest.raises(ProgramError, match="is not installed"):
        run(["no-such-program-here"])
    with pytest.raises(ProgramError, match="within"):
        run(["sleep", "5"], timeout_seconds=0.1)


def test_two_namespaces_on_one_bridge_reach_each_other_untracked(host: Host) -> None:
    host.kernel.ensure_bridge(Bridge(name=host.bridge(), mtu=1442))
    for number in (1, 2):
        device = Device(
            name="eth0",
            host_name=host.tap(number),
            bridge=host.bridge(),
            mac_address=f"fa:16:3e:00:00:0{number}",
            mtu=1442,
            addresses=frozenset({f"10.7.0.{number}/24"}),
        )
        host.kernel.apply(NamespaceState(name=host.namespace(f"n{number}"), devices=(device,)))
    until(lambda: pings(host.namespace("n1"), "10.7.0.2"))
    assert host.kernel.neighbours(host.namespace("n1"), "eth0") == {"10.7.0.2": "fa:16:3e:00:00:02"}
    assert "10.7.0.2" not in run(["conntrack", "-L"])


def test_cleanup_after_a_crash_removes_everything(host: Host) -> None:
    desired = router_like(host)
    make(host, desired)
    host.ownership.add("link", "brqneverwas")
    sleeper = netns.run_in(desired.name, lambda: subprocess.Popen(["sleep", "600"]))
    removed = remove_everything(host.ownership, host.prefix)
    assert f"namespace {desired.name}" in removed
    assert f"device {host.bridge()}" in removed
    assert sleeper.wait(timeout=HANG_SECONDS) != 0
    assert remove_everything(host.ownership, host.prefix) == ()


def test_unplugged_tap_is_on_no_bridge_and_down(host: Host) -> None:
    host.kernel.ensure_bridge(Bridge(name=host.bridge(), mtu=1442))
    host.ownership.add("link", host.tap())
    run(["ip", "tuntap", "add", host.tap(), "mode", "tap"])
    assert host.kernel.plug(host.tap(), host.bridge())
    plugged = host.kernel.links()
    assert (plugged[host.tap()].master_index, plugged[host.tap()].up) == (plugged[host.bridge()].index, True)
    assert host.kernel.unplug(host.tap()) == (f"unplug {host.tap()}",)
    link = host.kernel.links()[host.tap()]
    assert (link.master_index, link.up) == (None, False)
    assert host.kernel.unplug(host.tap()) == ()
