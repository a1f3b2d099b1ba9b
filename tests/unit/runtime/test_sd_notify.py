from __future__ import annotations

import socket
from pathlib import Path

import pytest

from openimds.runtime import sd_notify


def test_states_are_sent_to_the_notify_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        sd_notify.ready(port=1)
        assert manager.recv(100) == b"READY=1\nSTATUS="
        sd_notify.extend_start(60, "1 of 2 networks")
        assert manager.recv(100) == b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=1 of 2 networks"
        sd_notify.stopping()
        assert manager.recv(100) == b"STOPPING=1"


def test_missing_service_manager_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    sd_notify.ready()
    monkeypatch.delenv("NOTIFY_SOCKET")
    sd_notify.ready()
