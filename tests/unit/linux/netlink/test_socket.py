"""A dump that the kernel reports as interrupted is repeated."""

from __future__ import annotations

from collections import deque
from contextlib import closing

import pytest

from openimds.linux.netlink import socket
from openimds.linux.netlink.socket import HEADER, NLM_F_DUMP_INTR, NLMSG_DONE, NetlinkSocket

NEW_LINK, GET_LINK = 16, 18


def said(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(payload), kind, flags, 1, 0) + payload


class Kernel:
    """A fake netlink socket that returns these datagrams in turn."""

    def __init__(self, *datagrams: bytes) -> None:
        self._datagrams = deque(datagrams)
        self.asked = 0

    def send(self, _question: bytes) -> None:
        self.asked += 1

    def recvmsg(self, _size: int) -> tuple[bytes, list[object], int, None]:
        return self._datagrams.popleft(), [], 0, None

    def close(self) -> None: ...


END = said(NLMSG_DONE, bytes(4))


def dumped(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> bytes:
    monkeypatch.setattr(socket, "DUMP_BACKOFF_SECONDS", 0)
    with closing(NetlinkSocket()) as netlink:
        netlink._socket.close()
        monkeypatch.setattr(netlink, "_socket", kernel)
        return netlink.dump(GET_LINK, b"")


@pytest.mark.parametrize("at_end", [False, True])
def test_interrupted_dump_is_repeated(monkeypatch: pytest.MonkeyPatch, at_end: bool) -> None:
    old, new = said(NEW_LINK, b"old."), said(NEW_LINK, b"new.")
    marked = said(NEW_LINK, b"old.", 0 if at_end else NLM_F_DUMP_INTR)
    marked_end = said(NLMSG_DONE, bytes(4), NLM_F_DUMP_INTR if at_end else 0)
    kernel = Kernel(old, marked, marked_end, new, new + END)
    assert dumped(monkeypatch, kernel) == new + new
    assert kernel.asked == 2


def test_dump_that_is_always_interrupted_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = said(NLMSG_DONE, bytes(4), NLM_F_DUMP_INTR)
    kernel = Kernel(*[interrupted] * socket.MAX_DUMP_ATTEMPTS)
    with pytest.raises(OSError, match="changed during every attempt"):
        dumped(monkeypatch, kernel)
    assert kernel.asked == socket.MAX_DUMP_ATTEMPTS
