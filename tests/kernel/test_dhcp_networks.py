"""Networks of the DHCP agent on the real kernel: leases, options, metadata, repairs."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tests.kernel.dhcp_stage import Stage, configure, curl, lease_v6, network_stage, pid_of, tap
from tests.kernel.metadata_proxies import chosen, in_both
from tests.kernel.stage import Host
from tests.waiting import until

from openimds.linux.errors import ProgramError
from openimds.linux.process.daemons import run
from openimds.linux.process.identity import is_alive
from openimds.netconfig.dhcp_network import MetadataOptions
from openimds.resources.network import Subnet

pytestmark = pytest.mark.kernel


@pytest.fixture
def stage(request: pytest.FixtureRequest, host: Host) -> Iterator[Stage]:
    with network_stage(host, chosen(request)) as made:
        yield made


@in_both("stage")
def test_guest_receives_its_lease_options_and_metadata(stage: Stage) -> None:
    port = stage.port("192.168.40.77")
    stage.round(everything=True)
    lease = stage.lease(guest := stage.plug(port))
    assert lease["ip"] == "192.168.40.77"
    assert lease["router"] == "192.168.40.1"
    assert lease["mtu"] == "1442"
    assert lease["staticroutes"] == "169.254.169.254/32 192.168.40.2 0.0.0.0/0 192.168.40.1"
    assert lease["domain"] == "openstacklocal"
    assert "dns" not in lease
    configure(guest, "192.168.40.77/24", ["169.254.169.254/32", "via", "192.168.40.2"])
    answer = curl(guest, "-H", "X-Neutron_Network-ID: forged", "-H", "x-forwarded-for: 10.0.0.9")
    assert answer == "hello"
    request = stage.server.requests[-1]
    assert request.values("x-neutron-network-id") == [stage.network.id]
    assert request.values("x-forwarded-for") == ["192.168.40.77"]
    assert not [name for name, _ in request.headers if "_" in name]


@in_both("stage")
def test_second_pass_changes_nothing(stage: Stage) -> None:
    stage.port("192.168.40.77")
    stage.round(everything=True)
    assert stage.round(everything=True) == []


def test_addresses_are_those_of_neutron(stage: Stage) -> None:
    stage.round(everything=True)
    shown = run(["ip", "-4", "addr"], namespace=stage.namespace)
    assert "inet 169.254.169.254/16 brd 169.254.255.255 scope global tap" in shown
    assert "inet 192.168.40.2/24 brd 192.168.40.255 scope global tap" in shown
    command = run(["ps", "-ww", "-eo", "args"])
    assert f"haproxy -f {stage.folder}/ns-metadata-proxy/{stage.network.id}.conf" in command.splitlines()


def test_unknown_guest_gets_no_lease(stage: Stage) -> None:
    stage.round(everything=True)
    stranger = stage.port("192.168.40.80")
    stage.view.remove(stranger)
    guest = stage.plug(stranger)
    with pytest.raises(ProgramError):
        stage.lease(guest)


def test_reused_address_is_leased_to_its_new_owner_immediately(stage: Stage) -> None:
    first = stage.port("192.168.40.77")
    stage.round(everything=True)
    assert stage.lease(stage.plug(first))["ip"] == "192.168.40.77"
    stage.view.remove(first)
    second = stage.port("192.168.40.77")
    words = stage.round()
    assert f"release the lease of 192.168.40.77 ({first.mac_address})" in words
    assert stage.lease(stage.plug(second))["ip"] == "192.168.40.77"


def test_foreign_changes_are_repaired_and_everything_else_is_untouched(stage: Stage) -> None:
    stage.round(everything=True)
    dnsmasq, haproxy = pid_of(stage, "dnsmasq"), pid_of(stage, "haproxy")
    os.kill(haproxy, signal.SIGKILL)
    run(["ip", "addr", "flush", "dev", tap(stage)], namespace=stage.namespace)
    until(lambda: not is_alive(haproxy))
    assert len(stage.round(everything=True)) >= 3
    assert pid_of(stage, "dnsmasq") == dnsmasq
    assert pid_of(stage, "haproxy") != haproxy
    assert "169.254.169.254/16" in run(["ip", "addr"], namespace=stage.namespace)
    os.kill(dnsmasq, signal.SIGKILL)
    until(lambda: not is_alive(dnsmasq))
    assert stage.round(everything=True)[0].startswith("start dnsmasq")


def test_removed_pid_file_does_not_cause_a_second_process(stage: Stage) -> None:
    stage.round(everything=True)
    dnsmasq = pid_of(stage, "dnsmasq")
    (stage.folder / "dhcp" / stage.network.id / "pid").unlink()
    stage.round(everything=True)
    assert not is_alive(dnsmasq)
    assert is_alive(pid_of(stage, "dnsmasq"))


def test_new_proxy_configuration_loses_no_request(stage: Stage) -> None:
    port = stage.port("192.168.40.77")
    stage.round(everything=True)
    guest = stage.plug(port)
    configure(guest, "192.168.40.77/24", ["169.254.169.254/32", "via", "192.168.40.2"])
    before = pid_of(stage, "haproxy")
    proxy = replace(
        stage.networks.settings.proxy, timeouts=replace(stage.networks.settings.proxy.timeouts, server_seconds=9)
    )
    stage.networks.settings = replace(stage.networks.settings, proxy=proxy)
    assert any(word.startswith("reload haproxy") for word in stage.round(everything=True))
    assert pid_of(stage, "haproxy") != before
    assert curl(guest) == "hello"
    until(lambda: not is_alive(before))
    assert stage.round(everything=True) == []


def test_disabled_metadata_removes_address_and_proxy(stage: Stage) -> None:
    stage.round(everything=True)
    haproxy = pid_of(stage, "haproxy")
    stage.networks.settings = replace(stage.networks.settings, metadata=MetadataOptions())
    stage.round(everything=True)
    assert not is_alive(haproxy)
    assert "169.254.169.254" not in run(["ip", "addr"], namespace=stage.namespace)


def test_deleted_network_leaves_nothing(stage: Stage) -> None:
    stage.round(everything=True)
    stage.view.remove(stage.subnet)
    stage.round()
    stage.view.remove(stage.network)
    stage.round(everything=True)
    stage.round(everything=True)
    assert stage.host.kernel.namespaces() == set()
    assert stage.host.kernel.bridges() == set()
    assert list((stage.folder / "dhcp").iterdir()) == []
    assert list((stage.folder / "ns-metadata-proxy").iterdir()) == []
    assert stage.view.ports == {}


def test_request_during_an_agent_restart_is_answered_afterwards(stage: Stage) -> None:
    port = stage.port("192.168.40.77")
    stage.round(everything=True)
    guest = stage.plug(port)
    configure(guest, "192.168.40.77/24", ["169.254.169.254/32", "via", "192.168.40.2"])
    stage.server.pause()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(curl, guest)
        until(stage.server.is_waited_for, "the proxy waits for the agent")
        assert not asking.done()
        stage.server.go_on()
        assert asking.result() == "hello"
    stage.server.hang_up_once = True
    assert curl(guest) == "hello"
    stage.server.close()
    answer = curl(guest, "-i")
    assert answer.startswith("HTTP/1.1 503")
    assert "retry-after: 1" in answer.lower()


@in_both("stage")
def test_ipv6_guest_is_served_at_the_link_local_address(stage: Stage) -> None:
    subnet = Subnet(
        id=str(uuid.uuid4()),
        network_id=stage.network.id,
        project_id="p",
        ip_version=6,
        cidr="2001:db8::/64",
        gateway_ip="2001:db8::1",
        ipv6_address_mode="dhcpv6-stateful",
        ipv6_ra_mode="dhcpv6-stateful",
    )
    stage.view.add(subnet)
    port = stage.port("192.168.40.77")
    stage.round(everything=True)
    guest = stage.plug(port)
    until(lambda: curl(guest, url="http://[fe80::a9fe:a9fe%25eth0]/", check=False) == "hello")
    assert stage.server.requests[-1].values("x-forwarded-for")[0].startswith("fe80::")


def test_stateful_ipv6_lease_and_its_release(stage: Stage) -> None:
    subnet = Subnet(
        id=str(uuid.uuid4()),
        network_id=stage.network.id,
        project_id="p",
        ip_version=6,
        cidr="2001:db8::/64",
        gateway_ip="2001:db8::1",
        ipv6_address_mode="dhcpv6-stateful",
        ipv6_ra_mode="dhcpv6-stateful",
    )
    stage.view.add(subnet)
    first = stage.port("2001:db8::77", subnet)
    stage.round(everything=True)
    assert lease_v6(stage, stage.plug(first)) == "2001:db8::77"
    stage.view.remove(first)
    second = stage.port("2001:db8::77", subnet)
    assert any(word.startswith("release the lease of 2001:db8::77") for word in stage.round())
    assert lease_v6(stage, stage.plug(second)) == "2001:db8::77"
