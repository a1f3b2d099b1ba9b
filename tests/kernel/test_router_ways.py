"""Forwarding by a router: several subnets, static routes, IPv6.

The metadata proxy's port can be reached by the redirect only, whatever listens there.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.kernel.metadata_proxies import chosen, in_both
from tests.kernel.router_stage import OUTSIDE, Stage, curl, peer_seen, router_stage
from tests.kernel.stage import Host, pings
from tests.waiting import until

from openimds.linux.errors import ProgramError
from openimds.linux.process.daemons import run
from openimds.resources.network import FixedIP, HostRoute, Subnet

pytestmark = pytest.mark.kernel

MARKED = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family); s.settimeout(1.0)
s.setsockopt(socket.SOL_SOCKET, 36, 1)  # SO_MARK: what the router itself marks requests with
try:
    s.connect((sys.argv[1], int(sys.argv[2]))); print("connected")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def stage(request: pytest.FixtureRequest, host: Host) -> Iterator[Stage]:
    with router_stage(host, chosen(request)) as made:
        yield made


def with_ipv6(stage: Stage) -> None:
    """Adds a prefix to each network. Guests and the host outside have `::7`, the router has `::1` inside and `::5`
    outside.
    """
    for name, prefix in (("a", "2001:db8:a"), ("b", "2001:db8:b"), ("ext", "2001:db8:e")):
        port = stage.ports[name]
        own = f"{prefix}::{5 if name == 'ext' else 1}"
        subnet = Subnet(
            id=str(uuid.uuid4()),
            network_id=port.network_id,
            project_id="p",
            ip_version=6,
            cidr=f"{prefix}::/64",
            gateway_ip=f"{prefix}::1",
        )
        stage.view.add(subnet)
        stage.ports[name] = replace(port, fixed_ips=(*port.fixed_ips, FixedIP(subnet.id, own)))
        stage.view.add(stage.ports[name])
        guest = stage.outside if name == "ext" else stage.guests[name]
        run(["ip", "addr", "add", f"{prefix}::7/64", "dev", "eth0", "nodad"], namespace=guest)
        run(["ip", "-6", "route", "replace", "default", "via", own], namespace=guest)
    stage.round()


def test_ipv6_is_forwarded_untranslated(stage: Stage) -> None:
    with_ipv6(stage)
    assert peer_seen(stage.guests["a"], stage.guests["b"], "2001:db8:b::7", family="AF_INET6") == "2001:db8:a::7"
    assert peer_seen(stage.guests["a"], stage.outside, "2001:db8:e::7", family="AF_INET6") == "2001:db8:a::7"
    assert peer_seen(stage.outside, stage.guests["a"], "2001:db8:a::7", family="AF_INET6") == "2001:db8:e::7"
    assert stage.round() == []


@in_both("stage")
def test_two_subnets_of_one_network_are_routed_and_served(stage: Stage) -> None:
    first = stage.ports["a"]
    subnet = Subnet(
        id=str(uuid.uuid4()), network_id=first.network_id, project_id="p", cidr="10.0.9.0/24", gateway_ip="10.0.9.1"
    )
    second = replace(
        first,
        id=f"{stage.host.tag}09-dddd-second",
        mac_address="fa:16:3e:00:00:09",
        fixed_ips=(FixedIP(subnet.id, "10.0.9.1"),),
    )
    stage.view.add(subnet, second)
    stage.round()
    guest = stage.guests["a"]
    run(["ip", "addr", "flush", "dev", "eth0"], namespace=guest)
    run(["ip", "addr", "add", "10.0.9.7/24", "dev", "eth0"], namespace=guest)
    run(["ip", "route", "replace", "default", "via", "10.0.9.1"], namespace=guest)
    assert curl(guest, "http://169.254.169.254/") == "hello"
    assert stage.server.requests[-1].values("x-forwarded-for") == ["10.0.9.7"]
    assert peer_seen(guest, stage.guests["b"], "10.0.2.7") == "10.0.9.7"
    assert peer_seen(guest, stage.outside, OUTSIDE) == "203.0.113.5"
    assert len([name for name in stage.host.kernel.links(stage.namespace) if name.startswith("qr-")]) == 3
    assert stage.round() == []


def test_static_route_through_a_guest_is_used(stage: Stage) -> None:
    """192.0.2.0/24 is behind the guest on network b, in both directions. A route with an unreachable next hop is
    logged.
    """
    run(["ip", "addr", "add", "192.0.2.1/24", "dev", "lo"], namespace=stage.guests["b"])
    routes = (HostRoute("192.0.2.0/24", "10.0.2.7"), HostRoute("198.51.100.0/24", "172.16.0.1"))
    stage.view.add(replace(stage.router, routes=routes))
    stage.round(everything=False)
    assert peer_seen(stage.guests["a"], stage.guests["b"], "192.0.2.1") == "10.0.1.7"
    assert stage.routers.report[stage.router.id]["unreachable_routes"] == ["198.51.100.0/24"]
    stage.view.add(stage.router)
    stage.round(everything=False)
    assert "192.0.2.0/24" not in run(["ip", "route"], namespace=stage.namespace)


ADDRESSES = ["10.0.1.1", "10.0.2.1", "203.0.113.5", "2001:db8:a::1", "2001:db8:b::1", "2001:db8:e::5"]


@in_both("stage")
@pytest.mark.parametrize("who", ["guest", "outside"])
def test_proxy_port_is_closed_on_the_routers_own_addresses(stage: Stage, who: str) -> None:
    """The same holds for packets with the mark of the redirect, because a mark does not travel between hosts."""
    with_ipv6(stage)
    namespace = stage.outside if who == "outside" else stage.guests["a"]
    run(
        ["ip", "route", "replace", "default", "via", "203.0.113.5" if who == "outside" else "10.0.1.1"],
        namespace=namespace,
    )
    for address in ADDRESSES:
        until(lambda address=address: pings(namespace, address))  # type: ignore[misc]
        before = dropped(stage, address)
        tried = run(["python3", "-c", MARKED, address, "9697"], namespace=namespace)
        assert tried.strip() == "TimeoutError", (address, tried)
        until(lambda address=address, before=before: dropped(stage, address) > before)  # type: ignore[misc]
    assert stage.server.requests == []


def dropped(stage: Stage, address: str) -> int:
    command = "ip6tables" if ":" in address else "iptables"
    lines = stage.rules("filter", "-v", command=command).splitlines()
    found = next(line for line in lines if "--dport 9697" in line)
    counted = re.search(r"-c (\d+) ", found)
    assert counted
    return int(counted[1])


@in_both("stage")
def test_service_is_not_reachable_from_the_external_network(stage: Stage) -> None:
    with_ipv6(stage)
    for address in ("169.254.169.254/32", "fe80::a9fe:a9fe/128"):
        hop = "203.0.113.5" if "." in address else "2001:db8:e::5"
        run(["ip", "route", "replace", address, "via", hop, "dev", "eth0"], namespace=stage.outside)
    mac = stage.ports["ext"].mac_address
    run(["ip", "neigh", "replace", "fe80::a9fe:a9fe", "lladdr", mac, "dev", "eth0"], namespace=stage.outside)
    for url in ("http://169.254.169.254/", "http://[fe80::a9fe:a9fe%25eth0]/", "http://[fe80::a9fe:a9fe%25eth0]:9697/"):
        with pytest.raises(ProgramError):
            curl(stage.outside, url, seconds=1)
    assert stage.server.requests == []


@in_both("stage")
def test_other_ports_and_protocols_of_the_metadata_address_are_closed(stage: Stage) -> None:
    with_ipv6(stage)
    guest = stage.guests["a"]

    def answered() -> bool:
        try:
            return curl(guest, "http://[fe80::a9fe:a9fe%25eth0]/", seconds=2) == "hello"
        except ProgramError:
            return False

    until(answered)
    asked = len(stage.server.requests)
    for host in ("169.254.169.254", "[fe80::a9fe:a9fe%25eth0]"):
        for port in (22, 81, 443, 9697):
            with pytest.raises(ProgramError):
                curl(guest, f"http://{host}:{port}/", seconds=1)
    assert len(stage.server.requests) == asked


@in_both("stage")
def test_requests_never_leave_by_the_external_device(stage: Stage) -> None:
    """A disabled proxy refuses requests too, instead of forwarding them."""
    settings = stage.routers.settings
    stage.routers.settings = replace(settings, metadata=replace(settings.metadata, enable_metadata_proxy=False))
    stage.round()
    run(["ip", "addr", "add", "169.254.169.254/32", "dev", "lo"], namespace=stage.outside)
    run(["ip", "route", "add", "169.254.169.254/32", "via", OUTSIDE], namespace=stage.namespace)
    with pytest.raises(ProgramError, match="exit code 7"):
        curl(stage.guests["a"], "http://169.254.169.254/", seconds=3)
    counted = run(["iptables", "-L", "FORWARD", "-v", "-x", "-n"], namespace=stage.namespace)
    assert re.search(r"^\s*[1-9].*REJECT.*169\.254\.169\.254", counted, re.MULTILINE)
