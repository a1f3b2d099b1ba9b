"""Checklist rows 11, 14, 20 and 21 at the namespace proxy: refused requests, rate and connection limits."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tests.security.instances import ALPHA, BETA, request
from tests.security.stage import Cloud, cloud_in
from tests.security.test_identity import FORGED
from tests.waiting import HANG_SECONDS, until

from openimds.netconfig.haproxy import HaproxyRateLimit, ProxyTimeouts

HOSTNAME = "/latest/meta-data/hostname"
LIMIT = HaproxyRateLimit(base_window_seconds=60, base_requests=240, burst_window_seconds=10, burst_requests=60)
BOOT_REQUESTS = 28


@pytest.fixture
def guarded(tmp_path) -> Iterator[Cloud]:
    """A cloud with strict requests and rate limits at its proxy."""
    with cloud_in(tmp_path) as cloud:
        cloud.start_proxy(strict_hosts=("169.254.169.254", "[fe80::a9fe:a9fe]"), rate_limit=LIMIT)
        yield cloud
        cloud.check_transcripts()


def test_11_14_unknown_hosts_and_forged_headers_are_refused_when_strict(guarded: Cloud) -> None:
    for host, status in (
        ("169.254.169.254", 200), ("169.254.169.254:80", 200), ("[fe80::a9fe:a9fe]", 200), ("rebound.example", 403),
        ("169.254.169.254.rebound.example", 403), ("169x254.169.254", 403), ("a169.254.169.254", 403),
    ):  # fmt: skip
        (answer,) = guarded.ask_proxy(ALPHA, request("GET", HOSTNAME, {"Host": host}))
        assert answer.status == status, host
    for name, value in FORGED.items():
        for spelt in (name, name.lower().replace("-", "_"), name.upper()):
            (answer,) = guarded.ask_proxy(BETA, request("GET", HOSTNAME, {spelt: value}))
            assert answer.status == 403, spelt


def test_20_boot_is_served_and_flood_is_limited(guarded: Cloud) -> None:
    line = guarded.connect_proxy(ALPHA)
    for number in range(70):
        line.send(request("GET", HOSTNAME, {"Connection": "keep-alive"} if number < 69 else {}))
        data = line.read()
        assert number >= BOOT_REQUESTS or data.startswith(b"HTTP/1.1 200 "), number
    line.finish()
    assert b"HTTP/1.1 429 " in data
    assert b"retry-after: 1" in data.lower()
    assert guarded.ask_proxy(BETA, request("GET", HOSTNAME))[0].status == 200


@pytest.fixture
def neutron_timeouts(tmp_path) -> Iterator[Cloud]:
    """A cloud with neutron's timeouts at its proxy."""
    with cloud_in(tmp_path) as cloud:
        cloud.start_proxy(timeouts=ProxyTimeouts())
        yield cloud
        cloud.check_transcripts()


def test_21_connections_of_one_guest_do_not_block_others(neutron_timeouts: Cloud) -> None:
    """One guest gets 256 of 1,000 connections, and the other guest receives all responses."""
    cloud = neutron_timeouts
    held: list[socket.socket] = []
    try:
        held += [_connection(cloud) for _ in range(1000)]
        until(lambda: sum(_is_alive(line) for line in held) <= 256)
        assert sum(_is_alive(line) for line in held) >= 250
        statuses = [cloud.ask_proxy(BETA, request("GET", HOSTNAME))[0].status for _ in range(200)]
        assert statuses == [200] * 200
    finally:
        for line in held:
            line.close()


def _connection(cloud: Cloud) -> socket.socket:
    line = socket.socket()
    line.settimeout(HANG_SECONDS)
    line.bind((ALPHA.address, 0))
    try:
        line.connect(("127.0.0.1", cloud.proxy_port))
        line.sendall(b"GET / HT")
    except OSError:
        pass
    return line


def _is_alive(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
