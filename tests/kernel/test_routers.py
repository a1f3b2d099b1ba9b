"""Routers of the L3 agent on the real kernel: redirect, its protection, SNAT, floating IPs, repairs."""

from __future__ import annotations

import os
import re
import signal
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.kernel.metadata_proxies import chosen, in_both
from tests.kernel.router_stage import OUTSIDE, Stage, curl, peer_seen, pid_of, router_stage
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS, until

from openimds.linux.errors import ProgramError
from openimds.linux.process.daemons import run
from openimds.linux.process.identity import is_alive
from openimds.netconfig.haproxy import HaproxyRateLimit
from openimds.netconfig.router_namespace import RouterMetadata
from openimds.resources.network import FixedIP, Subnet

pytestmark = pytest.mark.kernel


@pytest.fixture
def stage(request: pytest.FixtureRequest, host: Host) -> Iterator[Stage]:
    with router_stage(host, chosen(request)) as made:
        yield made


@in_both("stage")
def test_request_is_redirected_with_the_routers_id(stage: Stage) -> None:
    assert curl(stage.guests["a"], "http://169.254.169.254/openstack") == "hello"
    request = stage.server.requests[-1]
    assert request.values("x-neutron-router-id") == [stage.router.id]
    assert request.values("x-neutron-network-id") == []
    assert request.values("x-forwarded-for") == ["10.0.1.7"]
    redirect = "-A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 {}-j REDIRECT --to-ports 9697"
    assert redirect.format("") in stage.rules("nat").splitlines()
    counted = next(line for line in stage.rules("nat", "-v").splitlines() if "REDIRECT" in line)
    assert re.search(r"-c [1-9]\d* \d+ -j REDIRECT", counted)


def test_log_line_contains_the_request(stage: Stage) -> None:
    answer = curl(stage.guests["a"], "-i", 'http://169.254.169.254/a"b\\c', "-H", "X-Openstack-Request-Id: req-forged")
    line = stage.server.logged()
    assert line["router_id"] == stage.router.id
    assert line["source"] == "10.0.1.7"
    assert (line["method"], line["path"], line["status"]) == ("GET", '/a"b\\c', 200)
    assert re.fullmatch(r"req-[0-9a-f-]{36}", line["request_id"])
    assert stage.server.requests[-1].values("x-openstack-request-id") == [line["request_id"]]
    assert re.findall(r"(?im)^x-openstack-request-id: (\S+)", answer) == [line["request_id"]]


@in_both("stage")
def test_proxy_port_is_reachable_by_the_redirect_only(stage: Stage) -> None:
    for who, address in (("a", "10.0.1.1"), ("a", "10.0.2.1"), ("a", "203.0.113.5")):
        with pytest.raises(ProgramError):
            curl(stage.guests[who], f"http://{address}:9697/", seconds=0.5)
    with pytest.raises(ProgramError):
        curl(stage.outside, "http://203.0.113.5:9697/", seconds=0.5)
    run(["ip", "route", "add", "169.254.169.254/32", "via", "203.0.113.5"], namespace=stage.outside)
    with pytest.raises(ProgramError):
        curl(stage.outside, "http://169.254.169.254/", seconds=0.5)
    assert stage.server.requests == []


def test_other_ports_of_the_metadata_address_are_never_forwarded(stage: Stage) -> None:
    with pytest.raises(ProgramError):
        curl(stage.guests["a"], "http://169.254.169.254:81/", seconds=3)
    counted = run(["iptables", "-L", "FORWARD", "-v", "-x", "-n"], namespace=stage.namespace)
    assert re.search(r"^\s*[1-9].*REJECT.*169\.254\.169\.254", counted, re.MULTILINE)


def test_rules_equal_the_kernels_listing(stage: Stage) -> None:
    """A second pass changes nothing, with floating IPs and IPv6 too."""
    stage.float_to("203.0.113.50", "10.0.1.7")
    assert stage.round() != []
    assert stage.round() == []
    fe80 = "-A PREROUTING -d fe80::a9fe:a9fe/128 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697"
    assert fe80 in stage.rules("nat", command="ip6tables").splitlines()


def test_snat_applies_to_external_traffic_only(stage: Stage) -> None:
    assert peer_seen(stage.guests["a"], stage.outside, OUTSIDE) == "203.0.113.5"
    assert peer_seen(stage.guests["a"], stage.guests["b"], "10.0.2.7") == "10.0.1.7"


def test_without_snat_the_source_address_is_unchanged(stage: Stage) -> None:
    assert stage.router.external_gateway
    gateway = replace(stage.router.external_gateway, enable_snat=False)
    stage.view.add(replace(stage.router, external_gateway=gateway))
    stage.round(everything=False)
    assert "SNAT" not in stage.rules("nat")


def test_floating_ip_is_one_to_one_in_both_directions(stage: Stage) -> None:
    floating = stage.float_to("203.0.113.50", "10.0.1.7")
    stage.round(everything=False)
    assert peer_seen(stage.outside, stage.guests["a"], "203.0.113.50", listen="10.0.1.7") == OUTSIDE
    assert peer_seen(stage.guests["a"], stage.outside, OUTSIDE) == "203.0.113.50"
    assert peer_seen(stage.guests["b"], stage.guests["a"], "203.0.113.50", listen="10.0.1.7") == "203.0.113.5"
    stage.view.remove(floating)
    stage.round(everything=False)
    assert peer_seen(stage.guests["a"], stage.outside, OUTSIDE) == "203.0.113.5"
    assert "203.0.113.50" not in run(["ip", "addr"], namespace=stage.namespace)


def test_connections_end_with_their_floating_ip(stage: Stage) -> None:
    floating = stage.float_to("203.0.113.50", "10.0.1.7")
    stage.round(everything=False)
    assert peer_seen(stage.guests["a"], stage.outside, OUTSIDE) == "203.0.113.50"
    assert "203.0.113.50" in run(["conntrack", "-L"], namespace=stage.namespace)
    stage.view.remove(floating)
    stage.round(everything=False)
    assert "203.0.113.50" not in run(["conntrack", "-L"], namespace=stage.namespace)


def test_new_floating_ip_is_announced(stage: Stage) -> None:
    run(
        ["ip", "neigh", "add", "203.0.113.50", "lladdr", "fa:16:3e:99:99:99", "dev", "eth0", "nud", "stale"],
        namespace=stage.outside,
    )
    stage.float_to("203.0.113.50", "10.0.1.7")
    stage.round(everything=False)
    until(
        lambda: stage.ports["ext"].mac_address in run(["ip", "neigh", "show", "203.0.113.50"], namespace=stage.outside)
    )


def test_foreign_changes_are_repaired_and_counters_survive(stage: Stage) -> None:
    curl(stage.guests["a"], "http://169.254.169.254/")
    run(["iptables", "-F", "INPUT"], namespace=stage.namespace)
    haproxy = pid_of(stage)
    os.kill(haproxy, signal.SIGKILL)
    until(lambda: not is_alive(haproxy))
    assert len(stage.round()) == 2
    counted = next(line for line in stage.rules("nat", "-v").splitlines() if "REDIRECT" in line)
    assert "-c 0 0" not in counted
    assert curl(stage.guests["a"], "http://169.254.169.254/") == "hello"


def test_burst_of_requests_loses_none(stage: Stage) -> None:
    script = (
        "seq 1000 | xargs -P 250 -I{} curl -s -o /dev/null -w '%{http_code}\\n' --max-time 20 http://169.254.169.254/{}"
    )
    codes = run(["sh", "-c", script], namespace=stage.guests["a"], timeout_seconds=HANG_SECONDS).split()
    assert codes == ["200"] * 1000


def test_proxy_is_replaced_under_load_without_a_lost_request(stage: Stage) -> None:
    script = (
        "seq 600 | xargs -P 20 -I{} curl -s -o /dev/null -w '%{http_code}\\n' --max-time 20 http://169.254.169.254/{}"
    )
    codes: list[str] = []
    load = threading.Thread(
        target=lambda: codes.extend(
            run(["sh", "-c", script], namespace=stage.guests["a"], timeout_seconds=HANG_SECONDS).split()
        )
    )
    load.start()
    number = 0
    while load.is_alive():
        number += 1
        proxy = stage.routers.settings.proxy
        timeouts = replace(proxy.timeouts, server_seconds=10 + number)
        stage.routers.settings = replace(stage.routers.settings, proxy=replace(proxy, timeouts=timeouts))
        stage.round()
    load.join()
    assert number > 2
    assert codes == ["200"] * 600


def test_identity_headers_of_a_guest_are_removed(stage: Stage) -> None:
    claims = [
        "X-Instance-ID: i", "x_instance_id: i", "X-Instance-ID-Signature: s", "X-Instance_ID-Signature: s",
        "X-Tenant-ID: t", "X_TENANT_ID: t", "X-Metadata-Provider: m", "X-Metadata-Provider-Signature: m",
        "X-Neutron-Network-ID: n", "X-Neutron-Network-ID: n2", "X_Neutron_Router_ID: n", "X-OVN-Network-ID: o",
        "X-Forwarded-For: 10.0.0.99", "X-Forwarded-Proto: https", "X_Forwarded_For: 1", "Forwarded: for=1",
        "X-Real-IP: 1", "X-Openstack-Request-Id: r", "Connection: close, X-Neutron-Router-ID",
        "X-Openimds-Guest-Forwarded: forged",
    ]  # fmt: skip
    flags = [word for claim in claims for word in ("-H", claim)]
    assert curl(stage.guests["a"], "http://169.254.169.254/", *flags) == "hello"
    request = stage.server.requests[-1]
    received = {name.lower(): value for name, value in request.headers}
    assert len(received) == len(request.headers)
    assert received.pop("x-openstack-request-id").startswith("req-")
    assert received.pop("x-neutron-router-id") == stage.router.id
    assert received.pop("x-forwarded-for") == "10.0.1.7"
    assert received.pop("x-openimds-guest-forwarded") == "1", (
        "that it was forwarded in the guest is the proxy's own word"
    )
    assert set(received) <= {"host", "user-agent", "accept", "connection"}


def test_rate_limit_responds_429_with_retry_after(stage: Stage) -> None:
    limit = HaproxyRateLimit(base_window_seconds=60, base_requests=100, burst_window_seconds=10, burst_requests=30)
    proxy = replace(stage.routers.settings.proxy, rate_limit=limit)
    stage.routers.settings = replace(stage.routers.settings, proxy=proxy)
    stage.round()
    script = "for i in $(seq 45); do curl -s -o /dev/null -w '%{http_code}\n' http://169.254.169.254/; done"
    codes = run(["sh", "-c", script], namespace=stage.guests["a"], timeout_seconds=HANG_SECONDS).split()
    # HAProxy weighs the requests of the previous window less and less, so slightly more than 30 may pass.
    assert (codes[:30], codes[-5:]) == (["200"] * 30, ["429"] * 5)
    assert "retry-after: 1" in curl(stage.guests["a"], "-i", "http://169.254.169.254/").lower()
    assert curl(stage.guests["b"], "http://169.254.169.254/") == "hello"


def test_rules_of_a_disabled_proxy_are_removed(stage: Stage) -> None:
    stage.routers.settings = replace(stage.routers.settings, metadata=RouterMetadata(enable_metadata_proxy=False))
    stage.round()
    assert "REDIRECT" not in stage.rules("nat")
    with pytest.raises(ProgramError):
        curl(stage.guests["a"], "http://169.254.169.254/", seconds=3)


def test_deleted_router_leaves_nothing(stage: Stage) -> None:
    haproxy = pid_of(stage)
    stage.view.remove(stage.router)
    stage.round(everything=False)
    assert stage.namespace not in stage.host.kernel.namespaces()
    assert not is_alive(haproxy)
    assert list((stage.folder / "ns-metadata-proxy").iterdir()) == []


def test_ipv6_guest_autoconfigures_and_reaches_the_link_local_address(stage: Stage) -> None:
    internal = stage.ports["a"]
    subnet = Subnet(
        id=str(uuid.uuid4()),
        network_id=internal.network_id,
        project_id="p",
        ip_version=6,
        cidr="2001:db8:1::/64",
        gateway_ip="2001:db8:1::1",
        ipv6_ra_mode="slaac",
        ipv6_address_mode="slaac",
    )
    both = (*internal.fixed_ips, FixedIP(subnet.id, "2001:db8:1::1"))
    stage.view.add(subnet, replace(internal, fixed_ips=both))
    assert any(word.startswith("start radvd") for word in stage.round(everything=False))
    assert stage.round() == []
    guest = stage.guests["a"]
    until(lambda: "2001:db8:1:" in run(["ip", "-6", "addr", "show", "dev", "eth0"], namespace=guest))

    def answered() -> bool:
        try:
            return curl(guest, "http://[fe80::a9fe:a9fe%25eth0]/", seconds=2) == "hello"
        except ProgramError:
            return False

    until(answered)
    request = stage.server.requests[-1]
    assert request.values("x-forwarded-for")[0].startswith("fe80::")
    assert request.values("x-neutron-router-id") == [stage.router.id]
