"""Which sockets listen in a namespace, asked by netlink and read from /proc: the same."""

from __future__ import annotations

import contextlib
import socket
from collections import defaultdict

import pytest
from tests.kernel.stage import Host

from openimds.linux import listening_sockets as asked
from openimds.linux import netns
from openimds.wiring.state import NamespaceState

pytestmark = pytest.mark.kernel


def test_netlink_and_proc_say_the_same(host: Host) -> None:
    wanted = NamespaceState(name=host.namespace("qdhcp-1"))
    host.kernel.apply(wanted)

    def look() -> None:
        assert asked.listening_sockets() == {}
        with contextlib.ExitStack() as opened:
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")):
                for _ in range(2):
                    one = opened.enter_context(socket.socket(family))
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    one.bind((address, 8080))
                    one.listen()
            idle = opened.enter_context(socket.socket())
            idle.bind(("127.0.0.1", 8081))
            opened.enter_context(socket.create_connection(("127.0.0.1", 8080)))
            found = asked.listening_sockets()
            from_proc = defaultdict(set)
            for key, inode in asked._in_proc():
                from_proc[key].add(inode)
        assert set(found) == {("127.0.0.1", 8080), ("::1", 8080), ("::", 8080)}
        assert all(len(inodes) == 2 for inodes in found.values())
        assert found == from_proc

    netns.in_namespace(wanted.name, look)
