from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openimds.netconfig.haproxy import (
    GUEST_CLAIMS,
    HaproxyRateLimit,
    ProxySettings,
    ProxyTimeouts,
    config_file,
    haproxy,
    haproxy_config,
    network_proxy,
    router_proxy,
)

SETTINGS = ProxySettings(
    state_path=Path("/var/lib/openimds"),
    agent_socket=Path("/var/lib/openimds/metadata_proxy"),
    log_socket=Path("/var/lib/openimds/haproxy_log"),
)
LIMIT = HaproxyRateLimit(base_window_seconds=60, base_requests=240, burst_window_seconds=10, burst_requests=60)
NETWORK = network_proxy(name="n1", namespace="qdhcp-n1", device="tap1", has_ipv6=True)
ROUTER = router_proxy(name="r1", namespace="qrouter-r1", port=9697, access_mark=1)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_looks_as_in_ps() -> None:
    daemon = haproxy("n1", "qdhcp-n1", SETTINGS)
    assert " ".join(daemon.argv) == "haproxy -f /var/lib/openimds/ns-metadata-proxy/n1.conf"
    assert daemon.pid_file == Path("/var/lib/openimds/external/pids/n1.pid.haproxy")
    assert config_file("n1", SETTINGS) == Path("/var/lib/openimds/ns-metadata-proxy/n1.conf")


def test_network_scope() -> None:
    found = lines(haproxy_config(NETWORK, SETTINGS))
    assert "bind 169.254.169.254:80" in found
    assert "bind [fe80::a9fe:a9fe]:80 interface tap1" in found
    assert "http-request set-header X-Neutron-Network-ID n1" in found
    assert "http-request set-header X-Forwarded-For %[src]" in found
    assert "server metadata unix@/var/lib/openimds/metadata_proxy" in found
    assert not [line for line in found if "Router-ID" in line]


def test_metadata_network_speaks_for_its_router() -> None:
    proxy = network_proxy(name="n1", namespace="qdhcp-n1", device="tap1", has_ipv6=False, router_id="r9")
    found = lines(haproxy_config(proxy, SETTINGS))
    assert "http-request set-header X-Neutron-Router-ID r9" in found
    assert "bind [fe80::a9fe:a9fe]:80 interface tap1" not in found


def test_router_scope() -> None:
    found = lines(haproxy_config(ROUTER, SETTINGS))
    assert [line for line in found if line.startswith("bind")] == ["bind 0.0.0.0:9697", "bind [::]:9697 v6only"]
    assert "http-request set-header X-Neutron-Router-ID r1" in found


def test_claims_are_deleted_before_ours_are_set() -> None:
    found = lines(haproxy_config(ROUTER, SETTINGS))
    deleted = next(number for number, line in enumerate(found) if line.startswith("http-request del-header"))
    assert all(deleted < number for number, line in enumerate(found) if line.startswith("http-request set-header"))


def test_that_the_guest_itself_was_forwarding_is_noted_before_its_word_is_deleted() -> None:
    found = lines(haproxy_config(ROUTER, SETTINGS))
    noted, deleted, said = (
        next(number for number, line in enumerate(found) if line.startswith(start))
        for start in (
            "http-request set-var(txn.forwarded)",
            "http-request del-header",
            "http-request set-header X-Openimds-Guest-Forwarded 1 if",
        )
    )
    assert noted < deleted < said
    assert re.search(GUEST_CLAIMS, "x-openimds-guest-forwarded")


def test_user_group_and_timeouts() -> None:
    timeouts = ProxyTimeouts(
        connect_seconds=1, client_seconds=2, server_seconds=3, http_request_seconds=4, http_keep_alive_seconds=5
    )
    found = lines(haproxy_config(ROUTER, replace(SETTINGS, user="nobody", group="nogroup", timeouts=timeouts)))
    assert {"user nobody", "group nogroup", "timeout connect 1s", "timeout client 2s"} <= set(found)
    assert {"timeout server 3s", "timeout http-request 4s", "timeout http-keep-alive 5s"} <= set(found)
    assert not [line for line in lines(haproxy_config(ROUTER, SETTINGS)) if line.startswith(("user", "group"))]


@pytest.mark.parametrize(
    ("versions", "condition"),
    [({4, 6}, ""), ({4}, " if { src 0.0.0.0/0 }"), ({6}, " if !{ src 0.0.0.0/0 }")],
)
def test_rate_limit(versions, condition) -> None:
    limit = replace(LIMIT, ip_versions=frozenset(versions))
    found = lines(haproxy_config(ROUTER, replace(SETTINGS, rate_limit=limit)))
    assert "stick-table type ipv6 size 100000 expire 60s store http_req_rate(60s)" in found
    assert f"http-request track-sc0 src table base{condition}" in found
    assert f"http-request track-sc1 src table burst{condition}" in found
    refusal = next(line for line in found if "429" in line)
    assert refusal.endswith("if { sc_http_req_rate(0) gt 240 } || { sc_http_req_rate(1) gt 60 }")


def test_no_rate_limit_no_table() -> None:
    assert "http_req_rate" not in haproxy_config(ROUTER, SETTINGS)


def test_a_guests_connections_are_counted_unless_there_is_no_limit() -> None:
    found = lines(haproxy_config(ROUTER, SETTINGS))
    assert "tcp-request connection reject if { sc_conn_cur(2) gt 256 }" in found
    assert "stick-table type ipv6 size 100000 expire 60s store conn_cur" in found
    assert "sc_conn_cur" not in haproxy_config(ROUTER, replace(SETTINGS, connections_per_guest=0))


def test_strict_requests_are_judged_before_anything_is_deleted() -> None:
    found = lines(haproxy_config(ROUTER, replace(SETTINGS, strict_hosts=("169.254.169.254", "[fe80::a9fe:a9fe]"))))
    refusals = [place for place, line in enumerate(found) if "status 403" in line]
    deleted = next(place for place, line in enumerate(found) if line.startswith("http-request del-header"))
    assert len(refusals) == 2
    assert all(place < deleted for place in refusals)
    assert r"'^(169\.254\.169\.254|\[fe80::a9fe:a9fe\])(:[0-9]+)?$'" in found[refusals[0]]
    assert "status 403" not in haproxy_config(ROUTER, SETTINGS)


@pytest.mark.parametrize(
    "name",
    [
        "x-instance-id", "x_instance_id", "x-instance_id", "x-instance-id-signature", "x_instance_id_signature",
        "x-tenant-id", "x_tenant-id", "x-metadata-provider", "x-metadata-provider-signature", "x-neutron-network-id",
        "x_neutron_router_id", "x-ovn-network-id", "x-forwarded-for", "x-forwarded-host", "x_forwarded_for",
        "forwarded", "x-real-ip", "x_real_ip", "x-openstack-request-id",
    ],
)  # fmt: skip
def test_claims(name: str) -> None:
    assert re.search(GUEST_CLAIMS, name)


@pytest.mark.parametrize(
    "name",
    [
        "host",
        "user-agent",
        "x-aws-ec2-metadata-token",
        "x-aws-ec2-metadata-token-ttl-seconds",
        "content-length",
        "x-id",
    ],
)
def test_what_a_guest_may_say(name: str) -> None:
    assert not re.search(GUEST_CLAIMS, name)


@given(st.sampled_from(["x-tenant-id", "x-neutron-network-id", "x-real-ip"]), st.integers(0, 2**6))
def test_no_mixture_of_dashes_and_underscores_passes(name: str, mask: int) -> None:
    spelled = "".join("_" if c == "-" and mask >> n & 1 else c for n, c in enumerate(name))
    assert re.search(GUEST_CLAIMS, spelled)
