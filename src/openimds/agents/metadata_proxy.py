"""What the keepers of proxies ask about namespaces.

Whether a process listens where it should, as the kernel says inside the namespace; not as its command line does.

Keeps namespaces' HAProxies running with the configuration that is wanted.

A new configuration is taken by a new process beside the old one: both listen (SO_REUSEPORT), then the old one is told
to finish what it has. Connections that wait in its queue move over (`net.ipv4.tcp_migrate_req`, set in the namespace),
so none is lost; and the process looks in `ps` as it always did, which `-sf` or a master process would change.

One that runs without listening where it should is replaced: it read a configuration that is no more, or an address that
could not be had at its start.

Says in a file what the metadata agent shall listen on in a namespace, and makes sure that it does.

A namespace's metadata proxy, of the kind that the option `metadata_proxy` names; and the way from one to the other.

The new one listens before the old one stops: both have SO_REUSEPORT, and what waits in the queue of the one that goes
moves over (`net.ipv4.tcp_migrate_req`), so no guest is refused.

What takes the guests' metadata requests in a namespace, kept by the DHCP and the L3 agent alike.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from openimds.agents.atomic_write import write_if_changed
from openimds.agents.protocols import DaemonManager
from openimds.netconfig.haproxy import ProxySettings, ProxySpec, config_file, haproxy, haproxy_config
from openimds.netconfig.listener_file import (
    ListenAddress,
    WantedListeners,
    listeners_file,
    render_listeners,
    with_indexes,
)
from openimds.netconfig.namespace_state import Daemon


class NotListeningError(Exception):
    """Nothing takes the guests' requests in a namespace yet."""


class NamespaceSnapshot(Protocol):
    """What a namespace has at this moment."""

    @property
    def inode(self) -> int: ...
    @property
    def device_indexes(self) -> Mapping[str, int]: ...
    @property
    def listening(self) -> Mapping[tuple[str, int], frozenset[int]]:
        """(address, port) → inodes of sockets that listen there: one of those that do, the same while they are."""

    @property
    def has_ipv6(self) -> bool: ...


class NamespaceProbe(Protocol):
    """The kernel's."""

    def snapshot(self, namespace: str, addresses: Collection[ListenAddress]) -> NamespaceSnapshot:
        """At who listens at these addresses, and at their devices."""

    def listening_sockets(self, namespace: str) -> Mapping[tuple[str, int], frozenset[int]]:
        """(address, port) → the inodes of all sockets that listen there. Slow where there are many namespaces."""

    def can_connect(self, namespace: str, address: ListenAddress, mark: int) -> bool:
        """From inside the namespace, with packets of this mark."""

    def sockets_of(self, pid: int) -> frozenset[int]:
        """Inodes."""


class SocketOwnership:
    """The kernel names one socket an address. Which process has it is looked up when it is another than before."""

    def __init__(self, namespaces: NamespaceProbe) -> None:
        self._namespaces = namespaces
        self._own: dict[str, tuple[int, frozenset[int]]] = {}
        """By proxy: a process, and its sockets as they were looked up last."""

    def missing(self, proxy: ProxySpec, pid: int) -> tuple[ListenAddress, ...]:
        """The proxy's addresses that the process `pid` does not listen at, but for those of IPv6 in a kernel without.

        Raises what looking into a namespace raises.
        """
        inside = self._namespaces.snapshot(proxy.namespace, proxy.addresses)
        expected = [one for one in proxy.addresses if inside.has_ipv6 or not one.is_ipv6]
        known, own = self._own.get(proxy.name, (0, frozenset[int]()))
        if known == pid and all(inside.listening.get((one.host, one.port), frozenset()) & own for one in expected):
            return ()
        own = self._namespaces.sockets_of(pid)
        self._own[proxy.name] = (pid, own)
        # Others may share an address (SO_REUSEPORT), and be the one that the kernel named.
        there = self._namespaces.listening_sockets(proxy.namespace)
        return tuple(one for one in expected if not there.get((one.host, one.port), frozenset()) & own)

    def forget(self, name: str) -> None:
        self._own.pop(name, None)


CONFIG_MODE = 0o640


class HaproxyDriver:
    """Says in words what it changed; nothing when all is right."""

    def __init__(self, programs: DaemonManager, namespaces: NamespaceProbe) -> None:
        self._programs = programs
        self._held = SocketOwnership(namespaces)
        self.pids: dict[str, int] = {}
        """By proxy: which process should be running."""
        self._replacements: dict[str, int] = {}
        """By proxy: the process that took the place of one that did not listen."""

    def ensure(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Raises what starting a program or looking into a namespace raises, OSError, and ListenerAwayError."""
        daemon = haproxy(proxy.name, proxy.namespace, settings)
        path = config_file(proxy.name, settings)
        write_if_changed(path, haproxy_config(proxy, settings), CONFIG_MODE)
        pid = self._programs.running_pid(daemon)
        if pid is None:
            self._programs.stop_stale(daemon)
            self.pids[proxy.name] = self._programs.start(daemon)
            return (f"start haproxy (pid {self.pids[proxy.name]})",)
        if _is_older(daemon.pid_file, path):
            self.pids[proxy.name] = self._replace(daemon, pid)
            return (f"reload haproxy (pid {pid} → {self.pids[proxy.name]})",)
        missing = self._held.missing(proxy, pid)
        if missing:
            return self._replace_deaf(proxy, daemon, pid, " and ".join(map(str, missing)))
        self.pids[proxy.name] = pid
        return ()

    def running(self, proxy: ProxySpec, settings: ProxySettings) -> int | None:
        return self._programs.running_pid(haproxy(proxy.name, proxy.namespace, settings))

    def retire(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Another one listens: finish what is under way, then end. Idempotent; a crash between its steps is made good
        by the next call.
        """
        daemon = haproxy(proxy.name, proxy.namespace, settings)
        pid = self._programs.running_pid(daemon)
        self.pids.pop(proxy.name, None)
        self._held.forget(proxy.name)
        self._replacements.pop(proxy.name, None)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        daemon.pid_file.unlink(missing_ok=True)
        config_file(proxy.name, settings).unlink(missing_ok=True)
        return (f"retire haproxy (pid {pid})",) if pid is not None else ()

    def remove(self, name: str, namespace: str, settings: ProxySettings) -> tuple[str, ...]:
        """Idempotent."""
        daemon = haproxy(name, namespace, settings)
        path = config_file(name, settings)
        was_there = path.exists() or self._programs.running_pid(daemon) is not None
        self.pids.pop(name, None)
        self._held.forget(name)
        self._replacements.pop(name, None)
        self._programs.stop(daemon)
        path.unlink(missing_ok=True)
        return ("stop haproxy",) if was_there else ()

    def _replace_deaf(self, proxy: ProxySpec, daemon: Daemon, pid: int, where: str) -> tuple[str, ...]:
        """Once: what a new process does not mend, a third one would not either."""
        if self._replacements.get(proxy.name) == pid:
            raise NotListeningError(f"haproxy (pid {pid}) does not listen on {where} in {proxy.namespace}")
        self.pids[proxy.name] = self._replacements[proxy.name] = new_pid = self._replace(daemon, pid)
        return (f"replace haproxy, which does not listen on {where} (pid {pid} → {new_pid})",)

    def _replace(self, daemon: Daemon, old_pid: int) -> int:
        try:
            new_pid = self._programs.start(daemon)
        except Exception:
            # The old one goes on: let its pid file say so, and be old, so that the next round tries again.
            daemon.pid_file.write_text(f"{old_pid}\n")
            os.utime(daemon.pid_file, (0, 0))
            raise
        with contextlib.suppress(ProcessLookupError):
            os.kill(old_pid, signal.SIGUSR1)
        return new_pid


def _is_older(pid_file: Path, config: Path) -> bool:
    """The program started before its configuration was written: also after an agent's crash in between."""
    return pid_file.stat().st_mtime_ns < config.stat().st_mtime_ns


FILE_MODE = 0o640
PATIENCE_SECONDS = 3.0
"""For the first that does not come. Those after it are not waited for until one is there again: an agent that is away
must not hold up everything else."""
_ASK_AGAIN_SECONDS = 0.005


class DirectDriver:
    """Says in words what it changed; nothing when all is right."""

    def __init__(self, namespaces: NamespaceProbe) -> None:
        self._namespaces = namespaces
        self._patience = PATIENCE_SECONDS
        self._let_in: dict[str, frozenset[int]] = {}
        """By proxy: the sockets that a connection came about to. While they are the same, none is made again."""
        self._seen: dict[str, NamespaceSnapshot] = {}
        """By proxy: what `keep` has just seen, for the `confirm` that follows it."""

    def ensure(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
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

    def wait_until_listening(self, proxy: ProxySpec, other_pid: int | None = None) -> None:
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

    def remove(self, name: str, settings: ProxySettings) -> tuple[str, ...]:
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


class MetadataProxyDriver:
    """Says in words what it changed; nothing when all is right."""

    def __init__(self, programs: DaemonManager, namespaces: NamespaceProbe) -> None:
        self._haproxy = HaproxyDriver(programs, namespaces)
        self._direct = DirectDriver(namespaces)

    @property
    def pids(self) -> Iterable[int]:
        """The HAProxies that should be running."""
        return self._haproxy.pids.values()

    def ensure(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Raises what starting a program or looking into a namespace raises, and OSError."""
        if settings.is_direct:
            return self._direct.ensure(proxy, settings)
        return self._haproxy.ensure(proxy, settings) + self._direct.remove(proxy.name, settings)

    def wait_until_listening(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """To be called after `keep`, before ports are reported: requests are taken. Raises ListenerAwayError."""
        if not settings.is_direct:
            return ()
        self._direct.wait_until_listening(proxy, self._haproxy.running(proxy, settings))
        return self._haproxy.retire(proxy, settings)

    def remove(self, name: str, namespace: str, settings: ProxySettings) -> tuple[str, ...]:
        """Idempotent."""
        return self._haproxy.remove(name, namespace, settings) + self._direct.remove(name, settings)
