"""DHCP options of guests: several subnets, host routes, DNS, options of a port, the network's MTU."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.kernel.dhcp_stage import Stage, curl, network_stage, pid_of
from tests.kernel.metadata_proxies import chosen, in_both
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS

from openimds.linux.errors import ProgramError
from openimds.linux.process.daemons import run
from openimds.linux.process.identity import is_alive
from openimds.resources.network import ExtraDhcpOption, HostRoute, Port, Subnet

pytestmark = pytest.mark.kernel


@pytest.fixture
def stage(request: pytest.FixtureRequest, host: Host) -> Iterator[Stage]:
    with network_stage(host, chosen(request)) as made:
        yield made


def asked_for(stage: Stage, guest: str, *codes: str) -> dict[str, str]:
    """Option code → the bytes in hex that a real client received."""
    options = [word for code in codes for word in ("-O", f"0x{int(code):02x}" if code.isdigit() else code)]
    script, lease = stage.folder / "env.sh", stage.folder / "lease"
    script.write_text('#!/bin/sh\nenv > "$LEASE_FILE"\n')
    script.chmod(0o755)
    command = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "4", "-T", "1", "-s", str(script), *options]
    run(
        ["env", "-i", f"PATH={os.environ['PATH']}", f"LEASE_FILE={lease}", *command],
        namespace=guest,
        timeout_seconds=20,
    )
    return dict(line.split("=", 1) for line in lease.read_text().splitlines() if "=" in line)


def with_options(stage: Stage, port: Port, *options: tuple[str, str]) -> Port:
    changed = replace(port, extra_dhcp_options=tuple(ExtraDhcpOption(name, value, 4) for name, value in options))
    stage.view.add(changed)
    return changed


@in_both("stage")
def test_every_subnet_of_a_network_is_served(stage: Stage) -> None:
    second = Subnet(
        id=str(uuid.uuid4()), network_id=stage.network.id, project_id="p", cidr="10.9.0.0/24", gateway_ip="10.9.0.1"
    )
    stage.view.add(second)
    first_port, second_port = stage.port("192.168.40.77"), stage.port("10.9.0.77", second)
    stage.round(everything=True)
    for port, lease in (
        (first_port, "10.9.0.0/24 0.0.0.0 169.254.169.254/32 192.168.40.2 0.0.0.0/0 192.168.40.1"),
        (second_port, "192.168.40.0/24 0.0.0.0 169.254.169.254/32 10.9.0.2 0.0.0.0/0 10.9.0.1"),
    ):
        guest = stage.plug(port)
        assert stage.configure(guest)["staticroutes"] == lease
        assert curl(guest) == "hello"
        assert stage.server.requests[-1].values("x-forwarded-for") == [port.ip_addresses[0]]
        assert "scope link" in run(["ip", "route", "show", lease.split()[0]], namespace=guest)


def test_both_route_options_have_the_same_bytes(stage: Stage) -> None:
    route = HostRoute("10.50.0.0/16", "192.168.40.9")
    stage.view.add(replace(stage.subnet, host_routes=(route,), dns_nameservers=("192.168.40.53", "192.168.40.54")))
    port = stage.port("192.168.40.77")
    stage.round(everything=True)
    guest = stage.plug(port)
    lease = asked_for(stage, guest, "121", "249", "dns", "mtu")
    routes = "10.50.0.0/16 192.168.40.9 169.254.169.254/32 192.168.40.2 0.0.0.0/0 192.168.40.1"
    assert lease["staticroutes"] == routes
    assert lease.get("msstaticroutes", lease.get("opt249")) in (
        routes,
        "100a32c0a82809" + "20a9fea9fec0a82802" + "00c0a82801",
    )
    assert lease["dns"] == "192.168.40.53 192.168.40.54"
    assert lease["mtu"] == "1442"


def test_options_of_a_port_take_precedence_and_apply_to_it_alone(stage: Stage) -> None:
    stage.view.add(replace(stage.subnet, dns_nameservers=("192.168.40.53",)))
    special = stage.port("192.168.40.77")
    with_options(stage, special, ("tftp-server", "10.1.1.1"), ("bootfile-name", "pxe.0"), ("dns-server", "9.9.9.9"))
    plain = stage.port("192.168.40.78")
    stage.round(everything=True)
    lease = asked_for(stage, stage.plug(special), "tftp", "bootfile", "dns", "121")
    assert (lease["tftp"], lease["bootfile"], lease["dns"]) == ("10.1.1.1", "pxe.0", "9.9.9.9")
    assert lease["staticroutes"].startswith("169.254.169.254/32 192.168.40.2")
    lease = asked_for(stage, stage.plug(plain), "tftp", "bootfile", "dns")
    assert lease["dns"] == "192.168.40.53"
    assert "tftp" not in lease
    assert "bootfile" not in lease


NASTY = [
    ("bootfile-name", "pxe.0\ntag:!x,option:router,192.168.40.66"),
    ("bootfile-name", "pxe.0\r\noption:dns-server,192.168.40.66"),
    ("tftp-server\ntag:!x,option:dns-server,192.168.40.66", "x"),
    ("dns-server,192.168.40.66\n3", "192.168.40.66"),
    ("54", "192.168.40.66"),
    ("51", "1"),
    ("no-such-option", "x"),
    ("tag:!x,option:router", "192.168.40.66"),
]


@pytest.mark.parametrize(("name", "value"), NASTY, ids=[repr(name + "=" + value)[:40] for name, value in NASTY])
def test_options_of_other_ports_are_not_sent(
    stage: Stage, name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """OSSA-2021-005."""
    bad, neighbour = stage.port("192.168.40.77"), stage.port("192.168.40.78")
    with_options(stage, bad, (name, value), ("ntp-server", "10.2.2.2"))
    stage.round(everything=True)
    assert "192.168.40.66" not in (stage.folder / "dhcp" / stage.network.id / "opts").read_text()
    for port in (bad, neighbour):
        lease = asked_for(stage, stage.plug(port), "dns", "router", "ntpsrv", "bootfile")
        assert lease["router"] == "192.168.40.1"
        assert lease["serverid"] == "192.168.40.2"
        assert lease["lease"] == "86400"
        assert "192.168.40.66" not in " ".join(lease.values())
        assert lease.get("ntpsrv") == ("10.2.2.2" if port is bad else None), "what is allowed is not lost with it"
    assert "extra DHCP option rejected" in capsys.readouterr().out


def test_option_with_an_invalid_value_affects_no_other_option(stage: Stage) -> None:
    """The option's name is allowed, but its value is not a valid address."""
    bad, neighbour = stage.port("192.168.40.77"), stage.port("192.168.40.78")
    with_options(stage, bad, ("ntp-server", "not an address"), ("mtu", "lots"))
    stage.round(everything=True)
    assert asked_for(stage, stage.plug(neighbour), "dns")["ip"] == "192.168.40.78"
    assert asked_for(stage, stage.plug(bad), "dns")["ip"] == "192.168.40.77"
    assert is_alive(pid_of(stage, "dnsmasq"))


def test_request_for_another_address_is_answered_with_the_own_one(stage: Stage) -> None:
    mine, other = stage.port("192.168.40.77"), stage.port("192.168.40.78")
    stage.round(everything=True)
    guest = stage.plug(mine)
    script = stage.folder / "env.sh"
    script.write_text(f"#!/bin/sh\nenv >> {stage.folder}/lease\n")
    script.chmod(0o755)
    asks = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "4", "-T", "1", "-s", str(script)]
    run([*asks, "-r", other.ip_addresses[0]], namespace=guest, timeout_seconds=HANG_SECONDS)
    assert "ip=192.168.40.77" in (stage.folder / "lease").read_text().splitlines()
    run(["ip", "link", "set", "eth0", "address", "fa:16:3e:00:99:99"], namespace=guest)
    with pytest.raises(ProgramError):
        run([*asks, "-r", "192.168.40.79"], namespace=guest, timeout_seconds=HANG_SECONDS)
