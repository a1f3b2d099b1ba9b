"""Whether a process listens where it should, as the kernel says inside the namespace; not as its command line does."""

from __future__ import annotations

from openimds.agents.metadata_proxy.protocols import Namespaces
from openimds.netconfig.haproxy import Proxy
from openimds.netconfig.listener_file import ListenAddress


class HeldListeners:
    """The kernel names one socket an address. Which process has it is looked up when it is another than before."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._own: dict[str, tuple[int, frozenset[int]]] = {}
        """By proxy: a process, and its sockets as they were looked up last."""

    def missing(self, proxy: Proxy, pid: int) -> tuple[ListenAddress, ...]:
        """The proxy's addresses that the process `pid` does not listen at, but for those of IPv6 in a kernel without.

        Raises what looking into a namespace raises.
        """
        inside = self._namespaces.look_inside(proxy.namespace, proxy.addresses)
        expected = [one for one in proxy.addresses if inside.has_ipv6 or not one.is_ipv6]
        known, own = self._own.get(proxy.name, (0, frozenset[int]()))
        if known == pid and all(inside.listening.get((one.host, one.port), frozenset()) & own for one in expected):
            return ()
        own = self._namespaces.sockets_of(pid)
        self._own[proxy.name] = (pid, own)
        # Others may share an address (SO_REUSEPORT), and be the one that the kernel named.
        there = self._namespaces.listening(proxy.namespace)
        return tuple(one for one in expected if not there.get((one.host, one.port), frozenset()) & own)

    def forget(self, name: str) -> None:
        self._own.pop(name, None)
