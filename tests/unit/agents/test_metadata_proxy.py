from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from openimds.agents import metadata_proxy
from openimds.agents.metadata_proxy import MetadataProxyDriver, NotListeningError
from openimds.agents.testing import AlwaysListeningProbe, FakeDaemonManager, FakeNamespaceProbe
from openimds.netconfig.haproxy import ProxySettings, config_file, network_proxy, router_proxy
from openimds.netconfig.listener_file import listeners_file, parse_listeners

PROXY = network_proxy(name="n1", namespace="qdhcp-n1", device="tap1", has_ipv6=True)
ROUTER = router_proxy(name="r1", namespace="qrouter-r1", port=9697, access_mark=1)
BOTH = {("169.254.169.254", 80): frozenset({7}), ("fe80::a9fe:a9fe", 80): frozenset({8})}


@pytest.fixture
def direct(tmp_path: Path) -> ProxySettings:
    return ProxySettings(
        state_path=tmp_path, agent_socket=tmp_path / "agent", log_socket=tmp_path / "log", is_direct=True
    )


@pytest.fixture
def haproxy(direct: ProxySettings) -> ProxySettings:
    return replace(direct, is_direct=False)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


@pytest.fixture(autouse=True)
def no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_proxy, "LISTEN_TIMEOUT_SECONDS", 0.0)


def test_direct_mode_writes_the_listener_file(direct: ProxySettings) -> None:
    driver = MetadataProxyDriver(programs := FakeDaemonManager(), FakeNamespaceProbe())
    assert driver.ensure(PROXY, direct) == ("ask the metadata agent to listen",)
    assert driver.ensure(PROXY, direct) == ()
    file = listeners_file("n1", direct.state_path)
    assert file.stat().st_mode & 0o777 == 0o640
    assert json.loads(file.read_text()) == {
        "kind": "network",
        "id": "n1",
        "namespace": "qdhcp-n1",
        "namespace_inode": 4026532257,
        "addresses": [["169.254.169.254", 80], ["fe80::a9fe:a9fe%tap1", 80, 2]],
    }
    assert programs.events == []
    assert list(driver.pids) == []
    assert driver.remove("n1", "qdhcp-n1", direct) == ("ask the metadata agent to stop listening",)
    assert driver.remove("n1", "qdhcp-n1", direct) == ()
    assert not file.exists()


def test_recreated_namespace_changes_the_listener_file(direct: ProxySettings) -> None:
    driver = MetadataProxyDriver(FakeDaemonManager(), probe := FakeNamespaceProbe())
    driver.ensure(PROXY, direct)
    probe.inode += 1
    assert driver.ensure(PROXY, direct) == ("ask the metadata agent to listen",)
    assert parse_listeners(listeners_file("n1", direct.state_path).read_text()).namespace_inode == 4026532258


def test_wait_ends_when_all_addresses_are_listening(direct: ProxySettings) -> None:
    driver = MetadataProxyDriver(FakeDaemonManager(), probe := FakeNamespaceProbe())
    driver.ensure(PROXY, direct)
    with pytest.raises(NotListeningError, match=r"nothing listens on 169\.254\.169\.254:80 and \[fe80::a9fe:a9fe%tap1"):
        driver.wait_until_listening(PROXY, direct)
    probe.sockets_at = {("169.254.169.254", 80): frozenset({7})}
    with pytest.raises(NotListeningError, match=r"nothing listens on \[fe80::a9fe:a9fe%tap1\]:80 in qdhcp-n1"):
        driver.wait_until_listening(PROXY, direct)
    probe.sockets_at = BOTH
    assert driver.wait_until_listening(PROXY, direct) == ()


def test_listener_that_accepts_no_connection_is_missing(direct: ProxySettings) -> None:
    driver = MetadataProxyDriver(FakeDaemonManager(), probe := FakeNamespaceProbe())
    probe.sockets_at, probe.accepts_connections = BOTH, False
    with pytest.raises(NotListeningError):
        driver.wait_until_listening(PROXY, direct)


def test_wait_needs_only_ipv4_without_ipv6_in_the_kernel(direct: ProxySettings) -> None:
    driver = MetadataProxyDriver(FakeDaemonManager(), probe := FakeNamespaceProbe())
    probe.sockets_at, probe.has_ipv6 = {("0.0.0.0", 9697): frozenset({7})}, False
    assert driver.wait_until_listening(ROUTER, direct) == ()


def test_haproxy_stops_after_the_agent_listens(
    direct: ProxySettings, haproxy: ProxySettings, signals: list[tuple[int, int]]
) -> None:
    driver = MetadataProxyDriver(programs := FakeDaemonManager(), probe := FakeNamespaceProbe())
    driver.ensure(PROXY, haproxy)
    assert driver.wait_until_listening(PROXY, haproxy) == ()
    probe.sockets_at, probe.sockets = BOTH, {100: frozenset({7, 8})}  # the sockets of HAProxy
    driver.ensure(PROXY, direct)
    with pytest.raises(NotListeningError):
        driver.wait_until_listening(PROXY, direct)
    assert (list(driver.pids), signals) == ([100], [])
    probe.sockets_at = {address: inodes | {9} for address, inodes in BOTH.items()}
    assert driver.wait_until_listening(PROXY, direct) == ("retire haproxy (pid 100)",)
    assert (list(driver.pids), signals) == ([], [(100, signal.SIGUSR1)])
    assert not config_file("n1", haproxy).exists()
    programs.alive.clear()
    assert driver.wait_until_listening(PROXY, direct) == ()


def test_listener_file_is_deleted_when_haproxy_runs(direct: ProxySettings, haproxy: ProxySettings) -> None:
    driver = MetadataProxyDriver(FakeDaemonManager(), AlwaysListeningProbe())
    driver.ensure(PROXY, direct)
    assert driver.ensure(PROXY, haproxy) == ("start haproxy (pid 100)", "ask the metadata agent to stop listening")
    assert driver.ensure(PROXY, haproxy) == ()
