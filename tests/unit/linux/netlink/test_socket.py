"""A dump that the kernel reports as interrupted is repeated."""

from __future__ import annotations

from collections import deque
from contextlib import closing

import pytest

from openimds.linux.netlink import socket
from openimds.linux.netlink.socket import HEADER, NLM_F_DUMP_INTR, NLMSG_DONE, NetlinkSocket

NEW_LINK, GET_LINK = 16, 18


def message(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(payload), kind, flags, 1, 0) + payload


class FakeSocket:
    """A fake netlink socket that returns these datagrams in turn."""

    def __init__(self, *datagrams: bytes) -> None:
        self._datagrams = deque(datagrams)
        self.requests = 0

    def send(self, _request: bytes) -> None:
        self.requests += 1

    def recvmsg(self, _size: int) -> tuple[bytes, list[object], int, None]:
        return self._datagrams.popleft(), [], 0, None

    def close(self) -> None: ...


END = message(NLMSG_DONE, bytes(4))


def dump(monkeypatch: pytest.MonkeyPatch, fake: FakeSocket) -> bytes:
    monkeypatch.setattr(socket, "DUMP_BACKOFF_SECONDS", 0)
    with closing(NetlinkSocket()) as netlink:
        netlink._socket.close()
        monkeypatch.setattr(netlink, "_socket", fake)
        return netlink.dump(GET_LINK, b"")


@pytest.mark.parametrize("at_end", [False, True])
def test_interrupted_dump_is_repeated(monkeypatch: pytest.MonkeyPatch, at_end: bool) -> None:
    old, new = message(NEW_LINK, b"old."), message(NEW_LINK, b"new.")
    marked = message(NEW_LINK, b"old.", 0 if at_end else NLM_F_DUMP_INTR)
    marked_end = message(NLMSG_DONE, bytes(4), NLM_F_DUMP_INTR if at_end else 0)
    fake = FakeSocket(old, marked, marked_end, new, new + END)
    assert dump(monkeypatch, fake) == new + new
    assert fake.requests == 2


def test_dump_that_is_always_interrupted_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = message(NLMSG_DONE, bytes(4), NLM_F_DUMP_INTR)
    fake = FakeSocket(*[interrupted] * socket.MAX_DUMP_ATTEMPTS)
    with pytest.raises(OSError, match="changed during every attempt"):
        dump(monkeypatch, fake)
    assert fake.requests == socket.MAX_DUMP_ATTEMPTS
