"""Whose sockets they are is asked of each process anew."""

from __future__ import annotations

from openimds.agents.metadata_proxy import SocketOwnership
from openimds.agents.testing import FakeNamespaceProbe
from openimds.netconfig.haproxy import router_proxy

PROXY = router_proxy(name="r1", namespace="qrouter-r1", port=9697, access_mark=1)


def test_what_the_process_before_still_holds_is_not_its_successors() -> None:
    namespaces = FakeNamespaceProbe()
    namespaces.listen(PROXY, 100)
    held = SocketOwnership(namespaces)
    assert held.missing(PROXY, 100) == ()
    assert held.missing(PROXY, 101) == tuple(PROXY.addresses)
    namespaces.listen(PROXY, 101)  # beside it: the kernel names the other's sockets
    assert held.missing(PROXY, 101) == ()


def test_a_number_that_another_process_has_now_is_looked_up_again() -> None:
    namespaces = FakeNamespaceProbe()
    namespaces.listen(PROXY, 100)
    held = SocketOwnership(namespaces)
    assert held.missing(PROXY, 100) == ()
    held.forget(PROXY.name)
    namespaces.sockets.clear()
    assert held.missing(PROXY, 100) == tuple(PROXY.addresses)
