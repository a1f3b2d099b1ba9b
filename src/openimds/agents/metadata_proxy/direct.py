"""Says in a file what the metadata agent shall listen on in a namespace, and makes sure that it does."""

from __future__ import annotations

import time

from openimds.agents.atomic_write import write_if_changed
from openimds.agents.metadata_proxy.protocols import Namespaces, NamespaceSnapshot, NotListeningError
from openimds.netconfig.haproxy import ProxySettings, ProxySpec
from openimds.netconfig.listener_file import (
    ListenAddress,
    WantedListeners,
    listeners_file,
    render_listeners,
    with_indexes,
)

FILE_MODE = 0o640
PATIENCE_SECONDS = 3.0
"""For the first that does not come. Those after it are not waited for until one is there again: an agent that is away
must not hold up everything else."""
_ASK_AGAIN_SECONDS = 0.005


class DirectDriver:
    """Says in words what it changed; nothing when all is right."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._patience = PATIENCE_SECONDS
        self._let_in: dict[str, frozenset[int]] = {}
        """By proxy: the sockets that a connection came about to. While they are the same, none is made again."""
        self._seen: dict[str, NamespaceSnapshot] = {}
        """By proxy: what `keep` has just seen, for the `confirm` that follows it."""

    def keep(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Raises OSError, and what looking into a namespace raises."""
        self._seen[proxy.name] = inside = self._namespaces.snapshot(proxy.namespace, proxy.addresses)
        wanted = WantedListeners(
            scope=proxy.scope,
            scope_id=proxy.scope_id,
            namespace=proxy.namespace,
            namespace_inode=inside.inode,
            addresses=with_indexes(proxy.addresses, inside.device_indexes),
        )
        changed = write_if_changed(listeners_file(proxy.name, settings.state_path), render_listeners(wanted), FILE_MODE)
        return ("ask the metadata agent to listen",) if changed else ()

    def confirm(self, proxy: ProxySpec, other_pid: int | None = None) -> None:
        """Wait until guests' requests are taken, by others than `other_pid`. Raises ListenerAwayError."""
        deadline = time.monotonic() + self._patience
        while missing := self._missing(proxy, other_pid):
            if time.monotonic() >= deadline:
                self._patience = 0.0
                raise NotListeningError(
                    f"nothing listens on {' and '.join(missing)} in {proxy.namespace}, which the metadata agent should"
                    " do: is openimds metadata-agent running on this host?"
                )
            time.sleep(_ASK_AGAIN_SECONDS)
        self._patience = PATIENCE_SECONDS

    def drop(self, name: str, settings: ProxySettings) -> tuple[str, ...]:
        """Idempotent."""
        self._let_in.pop(name, None)
        self._seen.pop(name, None)
        file = listeners_file(name, settings.state_path)
        was_there = file.exists()
        file.unlink(missing_ok=True)
        return ("ask the metadata agent to listen no more",) if was_there else ()

    def _missing(self, proxy: ProxySpec, other_pid: int | None) -> list[str]:
        """A connection is made by IPv4 alone: while the kernel looks for a duplicate of an IPv6 address, and for ever
        when there is one, nobody reaches it; that must not keep guests from the other.
        """
        inside = self._seen.pop(proxy.name, None) or self._namespaces.snapshot(proxy.namespace, proxy.addresses)
        there = self._namespaces.listening_sockets(proxy.namespace) if other_pid else inside.listening
        others = self._namespaces.sockets_of(other_pid) if other_pid else frozenset()
        expected = [address for address in proxy.addresses if inside.has_ipv6 or not address.is_ipv6]
        sockets = {one: there.get((one.host, one.port), frozenset()) - others for one in expected}
        listening = frozenset[int]().union(*sockets.values())
        missing = [
            str(address)
            for address, found in sockets.items()
            if not found
            or not (address.is_ipv6 or self._let_in.get(proxy.name) == listening or self._connects(proxy, address))
        ]
        self._let_in[proxy.name] = frozenset() if missing else listening
        return missing

    def _connects(self, proxy: ProxySpec, address: ListenAddress) -> bool:
        return self._namespaces.can_connect(proxy.namespace, address, proxy.access_mark)
