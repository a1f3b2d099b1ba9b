"""A namespace's metadata proxy, of the kind that the option `metadata_proxy` names; and the way from one to the other.

The new one listens before the old one stops: both have SO_REUSEPORT, and what waits in the queue of the one that goes
moves over (`net.ipv4.tcp_migrate_req`), so no guest is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from openimds.agents.metadata_proxy.direct import DirectDriver
from openimds.agents.metadata_proxy.haproxy import HaproxyDriver
from openimds.agents.metadata_proxy.protocols import Namespaces
from openimds.agents.protocols import DaemonManager
from openimds.netconfig.haproxy import ProxySettings, ProxySpec


class MetadataProxyDriver:
    """Says in words what it changed; nothing when all is right."""

    def __init__(self, programs: DaemonManager, namespaces: Namespaces) -> None:
        self._haproxy = HaproxyDriver(programs, namespaces)
        self._direct = DirectDriver(namespaces)

    @property
    def pids(self) -> Iterable[int]:
        """The HAProxies that should be running."""
        return self._haproxy.pids.values()

    def keep(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Raises what starting a program or looking into a namespace raises, and OSError."""
        if settings.is_direct:
            return self._direct.keep(proxy, settings)
        return self._haproxy.keep(proxy, settings) + self._direct.drop(proxy.name, settings)

    def confirm(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """To be called after `keep`, before ports are reported: requests are taken. Raises ListenerAwayError."""
        if not settings.is_direct:
            return ()
        self._direct.confirm(proxy, self._haproxy.running(proxy, settings))
        return self._haproxy.retire(proxy, settings)

    def drop(self, name: str, namespace: str, settings: ProxySettings) -> tuple[str, ...]:
        """Idempotent."""
        return self._haproxy.drop(name, namespace, settings) + self._direct.drop(name, settings)
