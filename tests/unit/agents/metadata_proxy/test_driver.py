from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from openimds.agents import metadata_proxy as keeper_of_files
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
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_of_files, "PATIENCE_SECONDS", 0.0)


def test_a_file_says_where_to_listen(direct: ProxySettings) -> None:
    proxies = MetadataProxyDriver(programs := FakeDaemonManager(), FakeNamespaceProbe())
    assert proxies.ensure(PROXY, direct) == ("ask the metadata agent to listen",)
    assert proxies.ensure(PROXY, direct) == ()
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
    assert list(proxies.pids) == []
    assert proxies.remove("n1", "qdhcp-n1", direct) == ("ask the metadata agent to listen no more",)
    assert proxies.remove("n1", "qdhcp-n1", direct) == ()
    assert not file.exists()


def test_a_namespace_made_anew_is_another_text(direct: ProxySettings) -> None:
    proxies = MetadataProxyDriver(FakeDaemonManager(), namespaces := FakeNamespaceProbe())
    proxies.ensure(PROXY, direct)
    namespaces.inode += 1
    assert proxies.ensure(PROXY, direct) == ("ask the metadata agent to listen",)
    assert parse_listeners(listeners_file("n1", direct.state_path).read_text()).namespace_inode == 4026532258


def test_confirmed_when_all_of_it_listens(direct: ProxySettings) -> None:
    proxies = MetadataProxyDriver(FakeDaemonManager(), namespaces := FakeNamespaceProbe())
    proxies.ensure(PROXY, direct)
    with pytest.raises(NotListeningError, match=r"nothing listens on 169\.254\.169\.254:80 and \[fe80::a9fe:a9fe%tap1"):
        proxies.wait_until_listening(PROXY, direct)
    namespaces.sockets_at = {("169.254.169.254", 80): frozenset({7})}
    with pytest.raises(NotListeningError, match=r"nothing listens on \[fe80::a9fe:a9fe%tap1\]:80 in qdhcp-n1"):
        proxies.wait_until_listening(PROXY, direct)
    namespaces.sockets_at = BOTH
    assert proxies.wait_until_listening(PROXY, direct) == ()


def test_a_listener_that_nobody_reaches_is_none(direct: ProxySettings) -> None:
    proxies = MetadataProxyDriver(FakeDaemonManager(), namespaces := FakeNamespaceProbe())
    namespaces.sockets_at, namespaces.accepts_connections = BOTH, False
    with pytest.raises(NotListeningError):
        proxies.wait_until_listening(PROXY, direct)


def test_without_ipv6_in_the_kernel_ipv4_is_enough(direct: ProxySettings) -> None:
    proxies = MetadataProxyDriver(FakeDaemonManager(), namespaces := FakeNamespaceProbe())
    namespaces.sockets_at, namespaces.has_ipv6 = {("0.0.0.0", 9697): frozenset({7})}, False
    assert proxies.wait_until_listening(ROUTER, direct) == ()


def test_haproxy_goes_when_the_agent_listens_and_not_before(
    direct: ProxySettings, haproxy: ProxySettings, signals: list[tuple[int, int]]
) -> None:
    proxies = MetadataProxyDriver(programs := FakeDaemonManager(), namespaces := FakeNamespaceProbe())
    proxies.ensure(PROXY, haproxy)
    assert proxies.wait_until_listening(PROXY, haproxy) == ()
    namespaces.sockets_at, namespaces.sockets = BOTH, {100: frozenset({7, 8})}  # HAProxy's own
    proxies.ensure(PROXY, direct)
    with pytest.raises(NotListeningError):
        proxies.wait_until_listening(PROXY, direct)
    assert (list(proxies.pids), signals) == ([100], [])
    namespaces.sockets_at = {place: found | {9} for place, found in BOTH.items()}
    assert proxies.wait_until_listening(PROXY, direct) == ("retire haproxy (pid 100)",)
    assert (list(proxies.pids), signals) == ([], [(100, signal.SIGUSR1)])
    assert not config_file("n1", haproxy).exists()
    programs.alive.clear()
    assert proxies.wait_until_listening(PROXY, direct) == ()


def test_the_file_goes_when_haproxy_runs(direct: ProxySettings, haproxy: ProxySettings) -> None:
    proxies = MetadataProxyDriver(FakeDaemonManager(), AlwaysListeningProbe())
    proxies.ensure(PROXY, direct)
    assert proxies.ensure(PROXY, haproxy) == ("start haproxy (pid 100)", "ask the metadata agent to listen no more")
    assert proxies.ensure(PROXY, haproxy) == ()
