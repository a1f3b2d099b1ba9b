from __future__ import annotations

import socket
from pathlib import Path

import pytest

from openimds.runtime import sd_notify


def test_the_starter_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as starter:
        starter.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        sd_notify.ready(port=1)
        assert starter.recv(100) == b"READY=1\nSTATUS="
        sd_notify.extend_start(60, "1 of 2 networks")
        assert starter.recv(100) == b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=1 of 2 networks"
        sd_notify.stopping()
        assert starter.recv(100) == b"STOPPING=1"


def test_nobody_there_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    sd_notify.ready()
    monkeypatch.delenv("NOTIFY_SOCKET")
    sd_notify.ready()
