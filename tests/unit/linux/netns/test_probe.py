from __future__ import annotations

import os
import socket

import pytest

from openimds.linux.netns.handles import NamespaceHandles
from openimds.linux.netns.probe import NamespaceProbe


def test_a_connection_that_ends_while_a_process_is_looked_at_hides_no_other_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a HAProxy under load would be taken for one that does not listen, and be replaced."""
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


def test_a_process_that_is_gone_has_none() -> None:
    assert NamespaceProbe(NamespaceHandles()).sockets_of(2**22 + 1) == frozenset()
