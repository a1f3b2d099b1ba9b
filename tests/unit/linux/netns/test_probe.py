from __future__ import annotations

import os
import socket

import pytest

from openimds.linux.netns.handles import NamespaceHandles
from openimds.linux.netns.probe import NamespaceProbe


def test_connection_closed_during_the_read_hides_no_other_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a HAProxy under load would seem not to listen, and be replaced."""
    readlink = os.readlink

    def read(path: str) -> str:
        if path.endswith(f"/{ended.fileno()}"):
            raise FileNotFoundError(path)
        return readlink(path)

    with socket.socket() as ended, socket.socket() as listening:
        assert ended.fileno() < listening.fileno()
        monkeypatch.setattr(os, "readlink", read)
        found = NamespaceProbe(NamespaceHandles()).sockets_of(os.getpid())
        assert os.fstat(listening.fileno()).st_ino in found
        assert os.fstat(ended.fileno()).st_ino not in found


def test_gone_process_has_no_sockets() -> None:
    assert NamespaceProbe(NamespaceHandles()).sockets_of(2**22 + 1) == frozenset()
