"""Changes to a network's namespace, files and processes are repaired."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.kernel import repair_stage, test_network_agents
from tests.kernel.repair_stage import AN_HOUR, SUBNET_V6, Wired, other_settings
from tests.kernel.test_network_agents import Cloud
from tests.waiting import until

from openimds.linux.process.daemons import run, terminate
from openimds.linux.process.identity import is_alive
from openimds.netconfig import dhcp_network
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState

pytestmark = pytest.mark.kernel

cloud = test_network_agents.cloud
network = repair_stage.network
NETWORK_CHANGES = {
    "address": "ip -n NS address delete 192.168.40.2/24 dev DEV",
    "metadata address": "ip -n NS address delete 169.254.169.254/16 dev DEV",
    "foreign address": "ip -n NS address add 10.99.0.1/24 dev DEV",
    "route": "ip -n NS route delete default",
    "foreign route": "ip -n NS route add 10.98.0.0/16 dev DEV",
    "down inside": "ip -n NS link set DEV down",
    "down on the host": "ip link set DEV down",
    "mtu": "ip -n NS link set DEV mtu 1300",
    "unplugged": "ip link set DEV nomaster",
    "device": "ip link delete DEV",
    "bridge": "ip link delete BR",
}


@pytest.mark.parametrize("change", NETWORK_CHANGES.values(), ids=NETWORK_CHANGES)
def test_network_is_repaired(network: Wired, change: str) -> None:
    network.is_repaired(lambda: network.do(change))


def test_each_setting_of_a_network_is_repaired(network: Wired) -> None:
    for change in other_settings(dhcp_network.SYSCTLS):
        network.is_repaired(lambda change=change: network.do(change))  # type: ignore[misc]


@pytest.mark.parametrize("program", ["dnsmasq", "haproxy"])
def test_program_of_a_network_is_restarted(network: Wired, program: str) -> None:
    before = network.pids()
    network.is_repaired(lambda: terminate(before[program], grace_seconds=0), restarts=True)
    now = network.pids()
    assert {name for name in now if now[name] != before[name]} == {program}


def test_ipv6_of_the_host_stays_disabled_on_a_networks_bridge(network: Wired) -> None:
    """IPv6 is disabled on the bridge, and is disabled again after a change."""
    setting = Path("/proc/sys/net/ipv6/conf", network.bridge, "disable_ipv6")
    assert setting.read_text() == "1\n"
    setting.write_text("0")
    until(lambda: setting.read_text() == "1\n")


@pytest.mark.parametrize("program", ["dnsmasq", "haproxy"])
def test_stopped_program_is_replaced(network: Wired, program: str) -> None:
    """The kernel reports no event for SIGSTOP, so polling finds it. The sockets of a stopped process go on accepting
    connections that are never answered.
    """
    before = network.pids()
    os.kill(before[program], signal.SIGSTOP)
    until(lambda: all(network.pids().values()) and network.pids() != before)
    assert not is_alive(before[program])
    assert {name for name, pid in network.pids().items() if pid != before[name]} == {program}


def test_removed_namespace_of_a_network_is_created_again(network: Wired) -> None:
    """Its processes are started again. The former ones, in the namespace without a name, are terminated."""
    before = network.pids()
    network.is_repaired(lambda: network.do("ip netns delete NS"), restarts=True)
    until(lambda: not any(is_alive(pid) for pid in before.values()))


def test_shared_address_is_taken_over_when_the_other_host_drops_it(cloud: Cloud) -> None:
    cloud.control.put("subnet", SUBNET_V6 | {"network_id": cloud.network_id})
    bridge = Bridge(name=f"brq{cloud.network_id[:11]}", mtu=1442)
    cloud.host.kernel.ensure_bridge(bridge)
    other = cloud.host.namespace("other")
    device = Device(
        name=f"tap{cloud.host.tag}9-xx",
        host_name=f"tap{cloud.host.tag}9-xx",
        bridge=bridge.name,
        mac_address="fa:16:3e:aa:aa:aa",
        mtu=1442,
        addresses=frozenset({"fe80::a9fe:a9fe/64"}),
    )
    cloud.host.kernel.apply(NamespaceState(name=other, devices=(device,)))
    until(lambda: "tentative" not in run(["ip", "-6", "addr"], namespace=other))
    cloud.dhcp.start(AN_HOUR + "force_metadata = True\nmetadata_proxy = haproxy")
    until(lambda: _elsewhere(cloud) != [])
    assert "dadfailed" in run(["ip", "-6", "addr"], namespace=cloud.qdhcp)
    cloud.host.kernel.remove_namespace(other)
    until(lambda: _elsewhere(cloud) == [])
    shown = run(["ip", "-6", "addr", "show", "to", "fe80::a9fe:a9fe"], namespace=cloud.qdhcp)
    assert "fe80::a9fe:a9fe" in shown
    assert not {"dadfailed", "tentative"} & set(shown.split())


def _elsewhere(cloud: Cloud) -> object:
    networks = cloud.dhcp.facts().get("by_network") or {}
    return networks.get(cloud.network_id, {}).get("ipv6_metadata_elsewhere", [])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_edited_file_is_written_again(network: Wired, number: int) -> None:
    network.is_repaired(lambda: network.files[number].write_text("# somebody's\n"), restarts=True)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_deleted_file_is_written_again(network: Wired, number: int) -> None:
    network.is_repaired(network.files[number].unlink, restarts=True)
