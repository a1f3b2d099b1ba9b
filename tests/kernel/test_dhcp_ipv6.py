"""IPv6 networks: every address mode, metadata at fe80::a9fe:a9fe for every kind of address, two hosts at once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.kernel.dhcp_stage import Stage, curl, lease_v6, tap
from tests.kernel.lab import Lab, lab_stage
from tests.kernel.metadata_proxies import chosen, in_both
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS, until

from openimds.linux.process.daemons import run
from openimds.netconfig.addresses import link_local
from openimds.netconfig.namespace_state import Device, NamespaceState
from openimds.resources.network import Port, Subnet

pytestmark = pytest.mark.kernel

METADATA = "http://[fe80::a9fe:a9fe%25eth0]/openstack"
ADDRESS_MODES = {"EUI-64": ("0", "0"), "random": ("3", "0"), "temporary": ("0", "2"), "both": ("3", "2")}
"""(addr_gen_mode, use_tempaddr)"""


@pytest.fixture
def lab(request: pytest.FixtureRequest, host: Host) -> Iterator[Lab]:
    with lab_stage(host, chosen(request)) as made:
        yield made


def subnet(stage: Stage, mode: str, **changes: object) -> Subnet:
    made = Subnet(
        id=str(uuid.uuid4()),
        network_id=stage.network.id,
        project_id="p",
        ip_version=6,
        cidr="2001:db8::/64",
        gateway_ip="2001:db8::1",
        ipv6_address_mode=mode,
        ipv6_ra_mode=mode,
        dns_nameservers=("2001:db8::53",),
    )
    made = replace(made, **changes)  # type: ignore[arg-type]
    stage.view.add(made)
    return made


def addresses(guest: str) -> str:
    return run(["ip", "-6", "addr", "show", "dev", "eth0", "scope", "global"], namespace=guest)


def has_no_tentative_address(guest: str) -> bool:
    return "tentative" not in run(["ip", "-6", "addr", "show", "dev", "eth0"], namespace=guest)


def eui64_address(port: Port) -> str:
    parts = bytes.fromhex(port.mac_address.replace(":", ""))
    return f"{parts[0] ^ 2:02x}{parts[1]:02x}:{parts[2]:02x}ff:fe{parts[3]:02x}:{parts[4]:02x}{parts[5]:02x}"


@pytest.mark.parametrize("routed", [False, True], ids=["dnsmasq advertises", "radvd advertises"])
@pytest.mark.parametrize("mode", ["slaac", "dhcpv6-stateless"])
def test_guest_configures_its_address_from_the_advertised_prefix(lab: Lab, mode: str, *, routed: bool) -> None:
    made = subnet(lab.network, mode)
    router_address = link_local(lab.route(lab.network.subnet, made).mac_address) if routed else ""
    port = lab.network.port("192.168.40.77")
    lab.round()
    guest = lab.network.plug(port)
    until(lambda: "2001:db8:" in addresses(guest))
    assert str(eui64_address(port)).replace(":0", ":") in addresses(guest).replace(":0", ":")
    default = run(["ip", "-6", "route", "show", "default"], namespace=guest)
    if routed:
        assert f"default via {router_address}" in default, "not the metadata address, which the DHCP port has as well"
    else:
        assert "via" not in default, "a DHCP namespace forwards nothing and is nobody's router"
    until(lambda: curl(guest, "--max-time", "2", url=METADATA, check=False) == "hello")
    assert lab.round() == []


def test_stateless_guest_receives_its_dns_server_and_no_address(lab: Lab) -> None:
    subnet(lab.network, "dhcpv6-stateless")
    port = lab.network.port("192.168.40.77")
    lab.round()
    guest = lab.network.plug(port)
    until(lambda: has_no_tentative_address(guest))
    lease, script = lab.network.folder / "lease", lab.network.folder / "dhclient-script"
    script.write_text(f"#!/bin/sh\nenv >> {lease}\n")
    script.chmod(0o755)
    files = ["-lf", str(lab.network.folder / "lease6"), "-pf", str(lab.network.folder / "pid6"), "-sf", str(script)]
    command = ["timeout", "15", "dhclient", "-6", "-S", "-1", "-d", *files, "-cf", "/dev/null", "eth0"]
    run(command, namespace=guest, timeout_seconds=HANG_SECONDS)
    assert "new_dhcp6_name_servers=2001:db8::53" in lease.read_text().splitlines()
    assert "new_ip6_address" not in lease.read_text()


@pytest.mark.parametrize("routed", [False, True], ids=["dnsmasq advertises", "radvd advertises"])
def test_stateful_guest_uses_dhcp(lab: Lab, *, routed: bool) -> None:
    made = subnet(lab.network, "dhcpv6-stateful")
    if routed:
        lab.route(lab.network.subnet, made)
    port = lab.network.port("2001:db8::77", made)
    lab.round()
    guest = lab.network.plug(port)
    assert lease_v6(lab.network, guest) == "2001:db8::77"
    assert "2001:db8::" not in addresses(guest), "the prefix is not for addresses of one's own making"


@in_both("lab")
@pytest.mark.parametrize("kind", ADDRESS_MODES)
@pytest.mark.parametrize("routed", [False, True], ids=["DHCP namespace", "router"])
def test_every_kind_of_ipv6_address_is_answered(lab: Lab, kind: str, *, routed: bool) -> None:
    made = subnet(lab.network, "slaac")
    if routed:
        lab.network.networks.settings = replace(
            lab.network.networks.settings, metadata=type(lab.network.networks.settings.metadata)()
        )
        lab.route(lab.network.subnet, made)
    port = lab.network.port("192.168.40.77")
    lab.round()
    guest = lab.network.plug(port)
    generation, temporary = ADDRESS_MODES[kind]
    run(["ip", "link", "set", "eth0", "down"], namespace=guest)
    for setting, value in (("addr_gen_mode", generation), ("use_tempaddr", temporary)):
        run(["sysctl", "-q", f"net.ipv6.conf.eth0.{setting}={value}"], namespace=guest)
    run(["ip", "link", "set", "eth0", "up"], namespace=guest)
    until(lambda: "2001:db8:" in addresses(guest))
    assert ("temporary" in addresses(guest)) is (temporary == "2")
    until(lambda: has_no_tentative_address(guest))  # otherwise the source is whichever address is ready first
    until(lambda: curl(guest, "--max-time", "2", url=METADATA, check=False) == "hello")
    request = lab.network.server.requests[-1]
    (source,) = request.values("x-forwarded-for")
    assert source.startswith("fe80::")
    assert source in run(["ip", "-6", "addr", "show", "dev", "eth0"], namespace=guest)
    assert (request.values("x-neutron-router-id") == [lab.router.id]) is routed


def other_host(stage: Stage, metadata_address: str) -> str:
    """The device of the other host's DHCP namespace, on the same network."""
    name = stage.host.namespace("otherhost")
    device = Device(
        name="tapother",
        host_name=stage.host.tap(8),
        bridge=stage.network.bridge_name,
        mac_address="fa:16:3e:aa:aa:aa",
        mtu=stage.network.mtu,
        addresses=frozenset({metadata_address}),
    )
    stage.host.kernel.apply(NamespaceState(name=name, devices=(device,)))
    return name


def flags(stage: Stage) -> str:
    shown = run(["ip", "-6", "-o", "addr"], namespace=stage.namespace)
    return next((line for line in shown.splitlines() if "fe80::a9fe:a9fe" in line), "")


@in_both("lab")
def test_second_host_takes_the_address_over_when_the_first_drops_it(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = lab.network
    stage.round(everything=True)  # the bridge
    other = other_host(stage, "fe80::a9fe:a9fe/64")
    until(lambda: "tentative" not in run(["ip", "-6", "addr"], namespace=other))
    subnet(stage, "slaac")
    port = stage.port("192.168.40.77")
    stage.round()
    until(lambda: "dadfailed" in flags(stage))
    stage.round(everything=True)
    facts = stage.networks.report[stage.network.id]
    assert facts["ipv6_metadata_elsewhere"] == [tap(stage)]
    assert "metadata address in use by another host" in capsys.readouterr().out
    guest = stage.boot(port)
    assert curl(guest) == "hello", "IPv4 is this host's all the same"
    until(lambda: other_answers(guest))
    assert curl(guest, "--max-time", "1", url=METADATA, check=False) == ""
    stage.host.kernel.remove_namespace(other)
    until(lambda: taken_back(stage))
    stage.round(everything=True)  # detection may have finished after the read
    assert stage.networks.report[stage.network.id]["ipv6_metadata_elsewhere"] == []
    assert "metadata address taken over" in capsys.readouterr().out
    run(["ip", "neigh", "flush", "all"], namespace=guest)
    until(lambda: curl(guest, "--max-time", "2", url=METADATA, check=False) == "hello")


def other_answers(guest: str) -> bool:
    """The guest, once it has a source address, reaches the other host."""
    curl(guest, "--max-time", "1", url=METADATA, check=False)
    known = run(["ip", "-6", "neigh", "show", "dev", "eth0"], namespace=guest)
    return "fe80::a9fe:a9fe lladdr fa:16:3e:aa:aa:aa" in known


def taken_back(stage: Stage) -> bool:
    stage.round(everything=True)
    return "dadfailed" not in flags(stage) and "tentative" not in flags(stage)
