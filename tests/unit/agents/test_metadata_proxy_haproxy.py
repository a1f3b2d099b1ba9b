from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from openimds.agents.metadata_proxy import HaproxyDriver, NotListeningError
from openimds.agents.testing import FakeDaemonManager, FakeNamespaceProbe
from openimds.netconfig.haproxy import ProxySettings, ProxyTimeouts, config_file, haproxy, router_proxy

PROXY = router_proxy(name="r1", namespace="qrouter-r1", port=9697, access_mark=1)


@pytest.fixture
def settings(tmp_path: Path) -> ProxySettings:
    return ProxySettings(state_path=tmp_path, agent_socket=tmp_path / "agent", log_socket=tmp_path / "log")


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


def listening(*pids: int) -> FakeNamespaceProbe:
    """A probe with the sockets of these processes. The default is each process that a test starts."""
    probe = FakeNamespaceProbe()
    for pid in pids or range(100, 110):
        probe.listen(PROXY, pid)
    return probe


def test_process_that_does_not_listen_is_replaced(settings: ProxySettings, signals: list[tuple[int, int]]) -> None:
    driver = HaproxyDriver(FakeDaemonManager(), listening(7, 101))
    driver.ensure(PROXY, settings)
    change = "replace haproxy, which does not listen on 0.0.0.0:9697 and [::]:9697 (pid 100 → 101)"
    assert driver.ensure(PROXY, settings) == (change,)
    assert signals == [(100, signal.SIGUSR1)]
    assert driver.ensure(PROXY, settings) == ()


def test_process_that_listens_on_one_of_two_addresses_is_replaced(
    settings: ProxySettings, signals: list[tuple[int, int]]
) -> None:
    driver = HaproxyDriver(FakeDaemonManager(), probe := listening(100, 101))
    driver.ensure(PROXY, settings)
    assert driver.ensure(PROXY, settings) == ()
    probe.sockets_at["::", 9697] -= probe.sockets[100]
    assert driver.ensure(PROXY, settings) == ("replace haproxy, which does not listen on [::]:9697 (pid 100 → 101)",)


def test_replacement_that_does_not_listen_is_an_error(settings: ProxySettings, signals: list[tuple[int, int]]) -> None:
    driver = HaproxyDriver(FakeDaemonManager(), listening(7))
    driver.ensure(PROXY, settings)
    driver.ensure(PROXY, settings)
    for _ in range(2):
        with pytest.raises(NotListeningError, match=r"haproxy \(pid 101\) does not listen on 0\.0\.0\.0:9697 and"):
            driver.ensure(PROXY, settings)
    assert signals == [(100, signal.SIGUSR1)]


def test_only_ipv4_is_expected_without_ipv6_in_the_kernel(settings: ProxySettings) -> None:
    driver = HaproxyDriver(FakeDaemonManager(), probe := listening())
    probe.has_ipv6 = False
    del probe.sockets_at["::", 9697]
    driver.ensure(PROXY, settings)
    assert driver.ensure(PROXY, settings) == ()


def test_haproxy_is_started_once(settings: ProxySettings) -> None:
    driver = HaproxyDriver(programs := FakeDaemonManager(), listening())
    assert driver.ensure(PROXY, settings) == ("start haproxy (pid 100)",)
    assert config_file("r1", settings).stat().st_mode & 0o777 == 0o640
    assert driver.ensure(PROXY, settings) == ()
    assert HaproxyDriver(programs, listening()).ensure(PROXY, settings) == ()  # after a restart of the agent
    assert str(programs) == "start haproxy in qrouter-r1"


def test_new_configuration_starts_a_process_beside_the_old_one(
    settings: ProxySettings, signals: list[tuple[int, int]]
) -> None:
    driver = HaproxyDriver(FakeDaemonManager(), listening())
    driver.ensure(PROXY, settings)
    changed = replace(settings, timeouts=ProxyTimeouts(server_seconds=9))
    assert driver.ensure(PROXY, changed) == ("reload haproxy (pid 100 → 101)",)
    assert signals == [(100, signal.SIGUSR1)]
    assert driver.ensure(PROXY, changed) == ()


def test_restarted_agent_reloads_an_outdated_process(settings: ProxySettings, signals: list[tuple[int, int]]) -> None:
    programs = FakeDaemonManager()
    HaproxyDriver(programs, listening()).ensure(PROXY, settings)
    pid_file = haproxy("r1", "qrouter-r1", settings).pid_file
    os.utime(pid_file, (0, 0))
    assert HaproxyDriver(programs, listening()).ensure(PROXY, settings) == ("reload haproxy (pid 100 → 101)",)


def test_rejected_configuration_keeps_the_old_process_and_is_retried(
    settings: ProxySettings, signals: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = HaproxyDriver(programs := FakeDaemonManager(), listening())
    driver.ensure(PROXY, settings)
    changed = replace(settings, timeouts=ProxyTimeouts(server_seconds=9))
    with monkeypatch.context() as patch:
        patch.setattr(programs, "start", _refuse)
        with pytest.raises(RuntimeError):
            driver.ensure(PROXY, changed)
    assert haproxy("r1", "qrouter-r1", settings).pid_file.read_text() == "100\n"
    assert signals == []
    assert driver.ensure(PROXY, changed) == ("reload haproxy (pid 100 → 101)",)


def test_removed_proxy_leaves_nothing(settings: ProxySettings) -> None:
    driver = HaproxyDriver(programs := FakeDaemonManager(), listening())
    driver.ensure(PROXY, settings)
    assert driver.remove("r1", "qrouter-r1", settings) == ("stop haproxy",)
    assert driver.remove("r1", "qrouter-r1", settings) == ()
    assert programs.alive == {}
    assert not config_file("r1", settings).exists()


def _refuse(_daemon: object) -> int:
    raise RuntimeError("the configuration is not valid")
