"""The listening sockets of a namespace, read by netlink and from /proc."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import defaultdict

import pytest
from tests.kernel.stage import Host

from openimds.linux.netlink import sock_diag as asked
from openimds.linux.netns import netns
from openimds.linux.netns.probe import NamespaceProbe
from openimds.netconfig.listener_file import ListenAddress
from openimds.netconfig.namespace_state import NamespaceState

pytestmark = pytest.mark.kernel


def test_netlink_and_proc_return_the_same_sockets(host: Host) -> None:
    desired = NamespaceState(name=host.namespace("qdhcp-1"))
    host.kernel.apply(desired)

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
            for key, inode in asked._read_proc_net_tcp():
                from_proc[key].add(inode)
        assert set(found) == {("127.0.0.1", 8080), ("::1", 8080), ("::", 8080)}
        assert all(len(inodes) == 2 for inodes in found.values())
        assert found == from_proc

    netns.run_in(desired.name, look)


def test_listener_is_found_by_its_address_from_outside(host: Host) -> None:
    desired = NamespaceState(name=host.namespace("qdhcp-1"))
    host.kernel.apply(desired)

    def listen(family: int, address: str, port: int) -> socket.socket:
        made = socket.socket(family)
        made.bind((address, port))
        made.listen()
        return made

    def inodes(*addresses: ListenAddress) -> dict[tuple[str, int], frozenset[int]]:
        return NamespaceProbe(host.kernel.handles).snapshot(desired.name, addresses).listening

    one = ListenAddress("127.0.0.1", 8080)
    others = (ListenAddress("127.0.0.1", 8081), ListenAddress("0.0.0.0", 8080), ListenAddress("::1", 8080))
    assert inodes(one, *others) == {}
    with netns.run_in(desired.name, lambda: listen(socket.AF_INET, "127.0.0.1", 8080)) as made:
        assert inodes(one, *others) == {("127.0.0.1", 8080): frozenset({os.fstat(made.fileno()).st_ino})}
    assert inodes(one, *others) == {}
    with netns.run_in(desired.name, lambda: listen(socket.AF_INET6, "::", 8080)):  # a dual-stack socket
        assert set(inodes(one, *others, ListenAddress("::", 8080))) == {("::", 8080)}
    with listen(socket.AF_INET, "127.0.0.1", 0) as here:  # in another namespace
        assert inodes(ListenAddress("127.0.0.1", here.getsockname()[1])) == {}


def test_replaced_namespace_is_read_again(host: Host) -> None:
    desired = NamespaceState(name=host.namespace("qdhcp-1"), sysctls={"net.ipv4.ip_forward": "1"})
    for _ in range(2):
        assert host.kernel.apply(desired)
        assert host.kernel.apply(desired) == ()
        netns.delete(desired.name)  # by another program
    assert host.kernel.actual(desired.name) is None
