from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openimds.netconfig.haproxy import (
    STRIPPED_HEADERS,
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


def test_command_line_and_files_have_neutrons_names() -> None:
    daemon = haproxy("n1", "qdhcp-n1", SETTINGS)
    assert " ".join(daemon.argv) == "haproxy -f /var/lib/openimds/ns-metadata-proxy/n1.conf"
    assert daemon.pid_file == Path("/var/lib/openimds/external/pids/n1.pid.haproxy")
    assert config_file("n1", SETTINGS) == Path("/var/lib/openimds/ns-metadata-proxy/n1.conf")


def test_proxy_of_a_network_listens_on_the_metadata_addresses_and_sends_the_network_id() -> None:
    found = lines(haproxy_config(NETWORK, SETTINGS))
    assert "bind 169.254.169.254:80" in found
    assert "bind [fe80::a9fe:a9fe]:80 interface tap1" in found
    assert "http-request set-header X-Neutron-Network-ID n1" in found
    assert "http-request set-header X-Forwarded-For %[src]" in found
    assert "server metadata unix@/var/lib/openimds/metadata_proxy" in found
    assert not [line for line in found if "Router-ID" in line]


def test_proxy_of_a_metadata_network_sends_the_router_id() -> None:
    proxy = network_proxy(name="n1", namespace="qdhcp-n1", device="tap1", has_ipv6=False, router_id="r9")
    found = lines(haproxy_config(proxy, SETTINGS))
    assert "http-request set-header X-Neutron-Router-ID r9" in found
    assert "bind [fe80::a9fe:a9fe]:80 interface tap1" not in found


def test_proxy_of_a_router_listens_on_the_redirect_port_and_sends_the_router_id() -> None:
    found = lines(haproxy_config(ROUTER, SETTINGS))
    assert [line for line in found if line.startswith("bind")] == ["bind 0.0.0.0:9697", "bind [::]:9697 v6only"]
    assert "http-request set-header X-Neutron-Router-ID r1" in found


def test_headers_of_guests_are_deleted_before_own_headers_are_set() -> None:
    found = lines(haproxy_config(ROUTER, SETTINGS))
    deleted = next(number for number, line in enumerate(found) if line.startswith("http-request del-header"))
    assert all(deleted < number for number, line in enumerate(found) if line.startswith("http-request set-header"))


def test_forwarded_headers_are_detected_before_they_are_deleted() -> None:
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
    assert re.search(STRIPPED_HEADERS, "x-openimds-guest-forwarded")


def test_user_group_and_timeouts_are_set() -> None:
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
def test_rate_limit_counts_requests_of_its_ip_versions(versions, condition) -> None:
    limit = replace(LIMIT, ip_versions=frozenset(versions))
    found = lines(haproxy_config(ROUTER, replace(SETTINGS, rate_limit=limit)))
    assert "stick-table type ipv6 size 100000 expire 60s store http_req_rate(60s)" in found
    assert f"http-request track-sc0 src table base{condition}" in found
    assert f"http-request track-sc1 src table burst{condition}" in found
    rejection = next(line for line in found if "429" in line)
    assert rejection.endswith("if { sc_http_req_rate(0) gt 240 } || { sc_http_req_rate(1) gt 60 }")


def test_without_rate_limit_there_is_no_stick_table() -> None:
    assert "http_req_rate" not in haproxy_config(ROUTER, SETTINGS)


def test_connections_of_a_guest_are_counted_if_there_is_a_limit() -> None:
    found = lines(haproxy_config(ROUTER, SETTINGS))
    assert "tcp-request connection reject if { sc_conn_cur(2) gt 256 }" in found
    assert "stick-table type ipv6 size 100000 expire 60s store conn_cur" in found
    assert "sc_conn_cur" not in haproxy_config(ROUTER, replace(SETTINGS, connections_per_guest=0))


def test_strict_rules_come_before_headers_are_deleted() -> None:
    found = lines(haproxy_config(ROUTER, replace(SETTINGS, strict_hosts=("169.254.169.254", "[fe80::a9fe:a9fe]"))))
    rejections = [place for place, line in enumerate(found) if "status 403" in line]
    deleted = next(place for place, line in enumerate(found) if line.startswith("http-request del-header"))
    assert len(rejections) == 2
    assert all(place < deleted for place in rejections)
    assert r"'^(169\.254\.169\.254|\[fe80::a9fe:a9fe\])(:[0-9]+)?$'" in found[rejections[0]]
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
def test_identity_header_is_stripped(name: str) -> None:
    assert re.search(STRIPPED_HEADERS, name)


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
def test_other_header_passes(name: str) -> None:
    assert not re.search(STRIPPED_HEADERS, name)


@given(st.sampled_from(["x-tenant-id", "x-neutron-network-id", "x-real-ip"]), st.integers(0, 2**6))
def test_header_with_mixed_dashes_and_underscores_is_stripped(name: str, mask: int) -> None:
    spelled = "".join("_" if c == "-" and mask >> n & 1 else c for n, c in enumerate(name))
    assert re.search(STRIPPED_HEADERS, spelled)


def test_only_responses_with_a_request_id_are_not_logged() -> None:
    """Stock neutron's agent returns no request ID, and logs no requests."""
    rule = "http-response set-log-level silent if { status lt 500 } { res.hdr(X-Openstack-Request-Id) -m found }"
    found = lines(haproxy_config(NETWORK, replace(SETTINGS, logs_all_requests=False)))
    assert found.index(rule) < found.index("http-response set-header X-Openstack-Request-Id %[unique-id]")
    assert rule not in lines(haproxy_config(NETWORK, SETTINGS))
