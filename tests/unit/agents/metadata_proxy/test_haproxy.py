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
    """Namespaces where all of these processes listen: those that a test starts, when none is named."""
    namespaces = FakeNamespaceProbe()
    for pid in pids or range(100, 110):
        namespaces.listen(PROXY, pid)
    return namespaces


def test_one_that_does_not_listen_is_replaced(settings: ProxySettings, signals: list[tuple[int, int]]) -> None:
    keeper = HaproxyDriver(FakeDaemonManager(), listening(7, 101))
    keeper.ensure(PROXY, settings)
    words = "replace haproxy, which does not listen on 0.0.0.0:9697 and [::]:9697 (pid 100 → 101)"
    assert keeper.ensure(PROXY, settings) == (words,)
    assert signals == [(100, signal.SIGUSR1)]
    assert keeper.ensure(PROXY, settings) == ()


def test_one_that_listens_at_half_of_it_is_replaced(settings: ProxySettings, signals: list[tuple[int, int]]) -> None:
    keeper = HaproxyDriver(FakeDaemonManager(), namespaces := listening(100, 101))
    keeper.ensure(PROXY, settings)
    assert keeper.ensure(PROXY, settings) == ()
    namespaces.sockets_at["::", 9697] -= namespaces.sockets[100]
    assert keeper.ensure(PROXY, settings) == ("replace haproxy, which does not listen on [::]:9697 (pid 100 → 101)",)


def test_what_a_new_process_does_not_mend_is_said(settings: ProxySettings, signals: list[tuple[int, int]]) -> None:
    keeper = HaproxyDriver(FakeDaemonManager(), listening(7))
    keeper.ensure(PROXY, settings)
    keeper.ensure(PROXY, settings)
    for _ in range(2):
        with pytest.raises(NotListeningError, match=r"haproxy \(pid 101\) does not listen on 0\.0\.0\.0:9697 and"):
            keeper.ensure(PROXY, settings)
    assert signals == [(100, signal.SIGUSR1)]


def test_without_ipv6_in_the_kernel_ipv4_is_enough(settings: ProxySettings) -> None:
    keeper = HaproxyDriver(FakeDaemonManager(), namespaces := listening())
    namespaces.has_ipv6 = False
    del namespaces.sockets_at["::", 9697]
    keeper.ensure(PROXY, settings)
    assert keeper.ensure(PROXY, settings) == ()


def test_started_once_and_left_alone(settings: ProxySettings) -> None:
    keeper = HaproxyDriver(programs := FakeDaemonManager(), listening())
    assert keeper.ensure(PROXY, settings) == ("start haproxy (pid 100)",)
    assert config_file("r1", settings).stat().st_mode & 0o777 == 0o640
    assert keeper.ensure(PROXY, settings) == ()
    assert HaproxyDriver(programs, listening()).ensure(PROXY, settings) == ()  # after a restart of the agent
    assert str(programs) == "start haproxy in qrouter-r1"


def test_new_configuration_is_taken_beside_the_old_process(
    settings: ProxySettings, signals: list[tuple[int, int]]
) -> None:
    keeper = HaproxyDriver(FakeDaemonManager(), listening())
    keeper.ensure(PROXY, settings)
    changed = replace(settings, timeouts=ProxyTimeouts(server_seconds=9))
    assert keeper.ensure(PROXY, changed) == ("reload haproxy (pid 100 → 101)",)
    assert signals == [(100, signal.SIGUSR1)]
    assert keeper.ensure(PROXY, changed) == ()


def test_agent_that_died_between_writing_and_reloading(settings: ProxySettings, signals: list[tuple[int, int]]) -> None:
    programs = FakeDaemonManager()
    HaproxyDriver(programs, listening()).ensure(PROXY, settings)
    pid_file = haproxy("r1", "qrouter-r1", settings).pid_file
    os.utime(pid_file, (0, 0))
    assert HaproxyDriver(programs, listening()).ensure(PROXY, settings) == ("reload haproxy (pid 100 → 101)",)


def test_refused_configuration_leaves_the_old_process_and_is_tried_again(
    settings: ProxySettings, signals: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = HaproxyDriver(programs := FakeDaemonManager(), listening())
    keeper.ensure(PROXY, settings)
    changed = replace(settings, timeouts=ProxyTimeouts(server_seconds=9))
    with monkeypatch.context() as patch:
        patch.setattr(programs, "start", _refuse)
        with pytest.raises(RuntimeError):
            keeper.ensure(PROXY, changed)
    assert haproxy("r1", "qrouter-r1", settings).pid_file.read_text() == "100\n"
    assert signals == []
    assert keeper.ensure(PROXY, changed) == ("reload haproxy (pid 100 → 101)",)


def test_dropped(settings: ProxySettings) -> None:
    keeper = HaproxyDriver(programs := FakeDaemonManager(), listening())
    keeper.ensure(PROXY, settings)
    assert keeper.remove("r1", "qrouter-r1", settings) == ("stop haproxy",)
    assert keeper.remove("r1", "qrouter-r1", settings) == ()
    assert programs.alive == {}
    assert not config_file("r1", settings).exists()


def _refuse(_daemon: object) -> int:
    raise RuntimeError("the configuration is not valid")
