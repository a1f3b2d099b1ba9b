"""When an agent says that it is ready."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from tests.waiting import HANG_SECONDS

from openimds.agents.reconciler.reconciler import PassReport
from openimds.programs import reconcile_agent
from openimds.programs.reconcile_agent import TELLING_SECONDS, Progress, _announce_when_ready
from openimds.runtime.lifecycle import Signals


def announced(*, first_resync_done: bool, failed: bool) -> bool:
    """With a loop that has looked at some things, and then came to its end of the first round or not."""
    done, broken, signals = threading.Event(), threading.Event(), Signals()
    if first_resync_done:
        done.set()
    if failed:
        broken.set()
    if failed or not first_resync_done:
        signals.stopped.set()
    loop = SimpleNamespace(first_resync_done=done, last_report=PassReport(resource_count=1, ended_at=datetime.now(UTC)))
    agent = SimpleNamespace(trade=SimpleNamespace(kind="network"))
    with structlog.testing.capture_logs() as logs:
        _announce_when_ready(cast("Any", agent), cast("Any", loop), signals, broken)
    return any(line["event"] == "ready" for line in logs)


@pytest.mark.parametrize(
    ("first_resync_done", "failed", "ready"),
    [(True, False, True), (False, False, False), (False, True, False), (True, True, False)],
)
def test_ready_means_a_whole_round_and_a_loop_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, *, first_resync_done: bool, failed: bool, ready: bool
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert announced(first_resync_done=first_resync_done, failed=failed) == ready


def test_a_first_round_is_told_of_while_it_goes_on() -> None:
    progress = Progress("network", now=0)
    assert not progress.news(5, 200, TELLING_SECONDS / 2), "most starts take less"
    assert progress.news(120, 200, TELLING_SECONDS) == "120 of 200 networks"
    assert not progress.news(130, 200, TELLING_SECONDS + 0.1), "not at every step"
    assert progress.news(208, 200, 2 * TELLING_SECONDS) == "200 of 200 networks"
    assert not progress.news(208, 200, 100 * TELLING_SECONDS), "nothing was done since"


def test_the_starter_is_asked_for_more_time_until_the_agent_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile_agent, "TELLING_SECONDS", 0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    done, signals = threading.Event(), Signals()
    report = PassReport(resource_count=200, ended_at=datetime.now(UTC))
    loop = SimpleNamespace(first_resync_done=done, last_report=report, completed_count=120, resource_count=200)
    agent = SimpleNamespace(trade=SimpleNamespace(kind="network"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as starter:
        starter.bind(str(tmp_path / "notify"))
        starter.settimeout(HANG_SECONDS)
        arguments = (cast("Any", agent), cast("Any", loop), signals, threading.Event())
        announcing = threading.Thread(target=_announce_when_ready, args=arguments)
        announcing.start()
        assert starter.recv(1000) == b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=120 of 200 networks"
        loop.completed_count = 130
        assert starter.recv(1000).endswith(b"STATUS=130 of 200 networks")
        done.set()
        assert starter.recv(1000) == b"READY=1\nSTATUS="
        announcing.join(HANG_SECONDS)
