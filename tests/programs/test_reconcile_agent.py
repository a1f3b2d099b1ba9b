"""The start of an agent: the cloud that it needs, its readiness, and its progress reports during the first pass."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from tests.waiting import HANG_SECONDS, until

from openimds.agents.reconciler.reconciler import PassReport
from openimds.client.control_client import ControlClient
from openimds.client.mirror import CloudMirror
from openimds.client.session import connect
from openimds.client.store_guard import StoreGuard, StoreRevision
from openimds.client.testing import PASSWORD, FakeControl
from openimds.programs import reconcile_agent
from openimds.programs.reconcile_agent import PROGRESS_SECONDS, Progress, _announce_when_ready, _await_view
from openimds.runtime.lifecycle import Signals


def is_announced(*, first_resync_done: bool, failed: bool) -> bool:
    """Whether the agent announces readiness after its loop has finished the first pass, or has not."""
    done, broken, signals = threading.Event(), threading.Event(), Signals()
    if first_resync_done:
        done.set()
    if failed:
        broken.set()
    if failed or not first_resync_done:
        signals.stopped.set()
    loop = SimpleNamespace(first_resync_done=done, last_report=PassReport(resource_count=1, ended_at=datetime.now(UTC)))
    agent = SimpleNamespace(handler=SimpleNamespace(kind="network"))
    with structlog.testing.capture_logs() as logs:
        _announce_when_ready(cast("Any", agent), cast("Any", loop), signals, broken)
    return any(line["event"] == "ready" for line in logs)


@pytest.mark.parametrize(
    ("first_resync_done", "failed", "ready"),
    [(True, False, True), (False, False, False), (False, True, False), (True, True, False)],
)
def test_agent_is_ready_after_a_full_pass_unless_the_loop_failed(
    monkeypatch: pytest.MonkeyPatch, *, first_resync_done: bool, failed: bool, ready: bool
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert is_announced(first_resync_done=first_resync_done, failed=failed) == ready


def test_progress_of_the_first_pass_is_reported() -> None:
    progress = Progress("network", now=0)
    assert not progress.next_report(5, 200, PROGRESS_SECONDS / 2), "most starts finish earlier"
    assert progress.next_report(120, 200, PROGRESS_SECONDS) == "120 of 200 networks"
    assert not progress.next_report(130, 200, PROGRESS_SECONDS + 0.1), "the interval has not passed"
    assert progress.next_report(208, 200, 2 * PROGRESS_SECONDS) == "200 of 200 networks"
    assert not progress.next_report(208, 200, 100 * PROGRESS_SECONDS), "no step was done since the last report"


def test_start_timeout_is_extended_until_the_agent_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_agent, "PROGRESS_SECONDS", 0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    done, signals = threading.Event(), Signals()
    report = PassReport(resource_count=200, ended_at=datetime.now(UTC))
    loop = SimpleNamespace(first_resync_done=done, last_report=report, completed_count=120, resource_count=200)
    agent = SimpleNamespace(handler=SimpleNamespace(kind="network"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(HANG_SECONDS)
        arguments = (cast("Any", agent), cast("Any", loop), signals, threading.Event())
        announcing = threading.Thread(target=_announce_when_ready, args=arguments)
        announcing.start()
        assert manager.recv(1000) == b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=120 of 200 networks"
        loop.completed_count = 130
        assert manager.recv(1000).endswith(b"STATUS=130 of 200 networks")
        done.set()
        assert manager.recv(1000) == b"READY=1\nSTATUS="
        announcing.join(HANG_SECONDS)


def configuration(folder: Path, auth_url: str) -> Path:
    file = folder / "agent.ini"
    file.write_text(
        f"[DEFAULT]\nstate_path = {folder}\nhost = node1\nnamespace_prefix = test-parts-{os.getpid()}-\n"
        f"[keystone_authtoken]\nauth_url = {auth_url}/v3\nusername = agent\npassword = {PASSWORD}\n"
        "project_name = service\nregion_name = RegionOne\n"
    )
    return file


@pytest.mark.skipif(os.geteuid() != 0, reason="the agents need root")
@pytest.mark.parametrize(
    ("program", "counterpart"),
    [("dhcp-agent", "neutron-dhcp-agent"), ("l3-agent", "neutron-l3-agent"), ("compute-agent", "nova-compute")],
)
def test_agent_exits_in_a_cloud_without_the_watch(tmp_path: Path, program: str, counterpart: str) -> None:
    """The exit code is the one for which the units of systemd do not start the program again."""
    with FakeControl(watch=False) as neutron:
        file = configuration(tmp_path, neutron.url)
        done = subprocess.run(
            [sys.executable, "-m", "openimds", program, "--config-file", str(file)],
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        assert neutron.calls == [], "no heartbeat"
    assert done.returncode == os.EX_CONFIG, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"openimds: the catalog of {neutron.url}/v3 has no service of the type instance-metadata")
    assert f"run {counterpart}" in last
    assert PASSWORD not in done.stderr


def test_agent_waits_for_a_watch_that_it_had_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openimds.client.mirror._NO_WATCH_PAUSE_SECONDS", 0.05)
    StoreGuard(tmp_path, "openimds-l3-agent").accepts(StoreRevision("s", 1), None)
    signals = Signals()
    with FakeControl(watch=False) as control:
        session = connect(control.auth)
        mirror = CloudMirror(ControlClient(session), ("port",), requires_watch=True)
        mirror.start()
        is_first_start = StoreGuard(tmp_path, "openimds-dhcp-agent").recorded() is None
        results: list[bool] = []
        waiting = threading.Thread(
            target=lambda: results.append(_await_view(mirror, signals, is_first_start=is_first_start))
        )
        with structlog.testing.capture_logs() as logs:
            waiting.start()
            until(lambda: any("host adopt" in line.get("reason", "") for line in logs))
            assert waiting.is_alive()
            control.has_watch = True
            waiting.join(HANG_SECONDS)
        mirror.stop(5)
        session.session.close()
    assert results == [True]


def test_agent_waits_for_an_unreachable_control_api(tmp_path: Path) -> None:
    signals = Signals()
    with FakeControl() as control:
        control.fail_with(503)
        session = connect(control.auth)
        mirror = CloudMirror(ControlClient(session), ("port",), requires_watch=True)
        mirror.start()
        results: list[bool] = []
        waiting = threading.Thread(target=lambda: results.append(_await_view(mirror, signals, is_first_start=True)))
        waiting.start()
        until(lambda: mirror._failures)
        assert waiting.is_alive()
        control.fail_with(None)
        waiting.join(HANG_SECONDS)
        mirror.stop(5)
        session.session.close()
    assert results == [True]
