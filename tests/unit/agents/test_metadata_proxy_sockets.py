"""The sockets of each process are looked up again."""

from __future__ import annotations

from openimds.agents.metadata_proxy import SocketOwnership
from openimds.agents.testing import FakeNamespaceProbe
from openimds.netconfig.haproxy import router_proxy

PROXY = router_proxy(name="r1", namespace="qrouter-r1", port=9697, access_mark=1)


def test_sockets_of_the_old_process_do_not_count_for_the_new_one() -> None:
    probe = FakeNamespaceProbe()
    probe.listen(PROXY, 100)
    ownership = SocketOwnership(probe)
    assert ownership.missing(PROXY, 100) == ()
    assert ownership.missing(PROXY, 101) == tuple(PROXY.addresses)
    probe.listen(PROXY, 101)  # the snapshot still names the sockets of the other process
    assert ownership.missing(PROXY, 101) == ()


def test_reused_pid_is_looked_up_again() -> None:
    probe = FakeNamespaceProbe()
    probe.listen(PROXY, 100)
    ownership = SocketOwnership(probe)
    assert ownership.missing(PROXY, 100) == ()
    ownership.forget(PROXY.name)
    probe.sockets.clear()
    assert ownership.missing(PROXY, 100) == tuple(PROXY.addresses)
