"""SNAT and floating IPs, tested from a namespace on the external network's bridge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.api_client import ApiClient
from tests.system.cloud import Cloud, run
from tests.waiting import until

OUTSIDE = "203.0.113.200"

pytestmark = pytest.mark.usefixtures("metadata_proxy")


@pytest.fixture(scope="module")
def outside(cloud: Cloud) -> Iterator[str]:
    """The namespace of a host on the external network."""
    for line in (
        "openstack network create --external public",
        "openstack subnet create --network public --subnet-range 203.0.113.0/24 --no-dhcp public-v4",
    ):
        cloud.line(line)
    api = ApiClient(cloud)
    network = api.network("n", "10.9.0.0/24")
    api.router("r", network)
    cloud.line("openstack router set --external-gateway public r")
    cloud.wait_booted(api.server("vm", network), "vm")
    bridge = "brq" + cloud.line("openstack network show public -f value -c id")[:11]
    name = f"{cloud.prefix}outside"
    device = f"o{name[1:7]}"
    run(["ip", "netns", "add", name])
    try:
        run(["ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name])
        run(["ip", "link", "set", device, "master", bridge, "up"])
        run(["ip", "-n", name, "address", "add", f"{OUTSIDE}/24", "dev", "eth0"])
        run(["ip", "-n", name, "link", "set", "eth0", "up"])
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        yield name
    finally:
        run(["ip", "netns", "delete", name])


def reaches(namespace: str, address: str) -> bool:
    return run(["ip", "netns", "exec", namespace, "ping", "-c1", "-W1", address], check=False).returncode == 0


def test_instance_reaches_the_external_network_by_snat(cloud: Cloud, outside: str) -> None:
    server = cloud.line("openstack server show vm -f value -c id").strip()
    until(lambda: reaches(f"{cloud.prefix}qvm-{server}", OUTSIDE), "the instance reaches the outside by SNAT")


def test_floating_ip_reaches_the_instance_and_is_in_its_metadata(cloud: Cloud, outside: str) -> None:
    server = cloud.line("openstack server show vm -f value -c id").strip()
    floating = cloud.json("openstack floating ip create public")["floating_ip_address"]
    assert not reaches(outside, floating)
    cloud.line(f"openstack server add floating ip vm {floating}")
    until(lambda: reaches(outside, floating), "the outside reaches the floating IP")
    shown = cloud.inside(f"qvm-{server}", "curl", "-sf", "http://169.254.169.254/latest/meta-data/public-ipv4")
    assert shown == floating
    cloud.line(f"openstack server remove floating ip vm {floating}")
    until(lambda: not reaches(outside, floating), "the floating IP is unreachable")


def test_internal_network_is_not_reached_from_outside(cloud: Cloud, outside: str) -> None:
    """Another project's router on the external network could have an extra route to the internal network."""
    server = cloud.line("openstack server show vm -f value -c id").strip()
    router = cloud.json("openstack router show r")["external_gateway_info"]["external_fixed_ips"][0]["ip_address"]
    (inside,) = cloud.json("openstack server show vm")["addresses"]["n"]
    until(lambda: reaches(f"{cloud.prefix}qvm-{server}", OUTSIDE), "the instance reaches the outside")
    run(["ip", "-n", outside, "route", "add", "10.9.0.0/24", "via", router])
    assert not reaches(outside, inside)
    cloud.line("openstack router set --disable-snat --external-gateway public r")
    until(lambda: reaches(outside, inside), "a router without a shared address routes both ways")
    cloud.line("openstack router set --enable-snat --external-gateway public r")
    until(lambda: not reaches(outside, inside), "the internal network is closed again")
    run(["ip", "-n", outside, "route", "del", "10.9.0.0/24"])


def test_metadata_port_is_not_reached_from_outside(cloud: Cloud, outside: str) -> None:
    gateway = cloud.json("openstack router show r")["external_gateway_info"]["external_fixed_ips"][0]["ip_address"]
    argv = ["ip", "netns", "exec", outside, "curl", "-s", "-m", "2", "-o", "/dev/null", f"http://{gateway}:9697/"]
    assert run(argv, check=False).returncode == 28, "the packets are dropped, so that curl times out"
