"""The metadata proxy of a namespace: HAProxy, or listeners of the metadata agent (direct mode).

The DHCP and the L3 agent use MetadataProxyDriver, which runs the kind that the option `metadata_proxy` selects:

- HaproxyDriver runs one HAProxy in the namespace. For a new configuration it starts a new process beside the old one,
  and then sends SIGUSR1 to the old one, which finishes its connections. It also replaces a process that does not listen
  on all addresses, because an address was missing at its start. HAProxy's own options for this (`-sf`, master-worker
  mode) are not used, because they change the command line in `ps`.
- DirectDriver writes a listener file for the metadata agent, and waits until the agent listens.

A change of the kind loses no request. Both kinds set SO_REUSEPORT, so the new one listens before the old one stops, and
pending connections move to the new listener (`net.ipv4.tcp_migrate_req`).

Whether a process listens is read from the kernel inside the namespace, and not derived from the command line.
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
    DesiredListeners,
    ListenAddress,
    listeners_file,
    render_listeners,
    with_indexes,
)
from openimds.netconfig.namespace_state import Daemon


class NotListeningError(Exception):
    """No process accepts metadata requests in the namespace."""


class NamespaceSnapshot(Protocol):
    """The state of a namespace at one moment."""

    @property
    def inode(self) -> int: ...
    @property
    def device_indexes(self) -> Mapping[str, int]: ...
    @property
    def listening(self) -> Mapping[tuple[str, int], frozenset[int]]:
        """The inode of one listening socket, by (address, port).

        The inode stays the same as long as no listener of the address is opened or closed.
        """

    @property
    def has_ipv6(self) -> bool: ...


class NamespaceProbe(Protocol):
    """Reads the state of namespaces and processes from the kernel."""

    def snapshot(self, namespace: str, addresses: Collection[ListenAddress]) -> NamespaceSnapshot:
        """Reads the listeners of the addresses, and the indexes of their devices."""

    def listening_sockets(self, namespace: str) -> Mapping[tuple[str, int], frozenset[int]]:
        """The inodes of all listening sockets, by (address, port). Slow if there are many namespaces."""

    def can_connect(self, namespace: str, address: ListenAddress, mark: int) -> bool:
        """Whether a connection from inside the namespace, with packets of this mark, is accepted."""

    def sockets_of(self, pid: int) -> frozenset[int]:
        """The inodes of a process's sockets."""


class SocketOwnership:
    """Checks that a proxy's process owns the listening socket of its address.

    A snapshot names the inode of each listening socket. The sockets of the process are read again only if the inode is
    not among those of the last lookup.
    """

    def __init__(self, probe: NamespaceProbe) -> None:
        self._probe = probe
        self._sockets: dict[str, tuple[int, frozenset[int]]] = {}
        """The PID and its sockets at the last lookup, by proxy."""

    def missing(self, proxy: ProxySpec, pid: int) -> tuple[ListenAddress, ...]:
        """The addresses of the proxy on which the process does not listen. IPv6 counts only if the kernel supports it.

        Raises the probe's errors.
        """
        snapshot = self._probe.snapshot(proxy.namespace, proxy.addresses)
        expected = [address for address in proxy.addresses if snapshot.has_ipv6 or not address.is_ipv6]
        cached_pid, sockets = self._sockets.get(proxy.name, (0, frozenset[int]()))
        if cached_pid == pid and not _unowned(expected, snapshot.listening, sockets):
            return ()
        sockets = self._probe.sockets_of(pid)
        self._sockets[proxy.name] = (pid, sockets)
        # The snapshot may name the socket of another process that shares the address (SO_REUSEPORT).
        return _unowned(expected, self._probe.listening_sockets(proxy.namespace), sockets)

    def forget(self, name: str) -> None:
        self._sockets.pop(name, None)


def _unowned(
    addresses: Iterable[ListenAddress], listening: Mapping[tuple[str, int], frozenset[int]], own: frozenset[int]
) -> tuple[ListenAddress, ...]:
    return tuple(one for one in addresses if not listening.get((one.host, one.port), frozenset()) & own)


CONFIG_MODE = 0o640


class HaproxyDriver:
    """Runs HAProxy in namespaces. Methods return a description of each change."""

    def __init__(self, programs: DaemonManager, probe: NamespaceProbe) -> None:
        self._programs = programs
        self._ownership = SocketOwnership(probe)
        self.pids: dict[str, int] = {}
        """The PID that should be running, by proxy."""
        self._replacements: dict[str, int] = {}
        """The PID that replaced a process that did not listen, by proxy."""

    def ensure(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Starts, reloads or replaces HAProxy.

        Raises OSError, NotListeningError, and the errors of DaemonManager.start and of the probe.
        """
        daemon = haproxy(proxy.name, proxy.namespace, settings)
        path = config_file(proxy.name, settings)
        write_if_changed(path, haproxy_config(proxy, settings), CONFIG_MODE)
        pid = self._programs.running_pid(daemon)
        if pid is None:
            self._programs.stop_stale(daemon)
            self.pids[proxy.name] = self._programs.start(daemon)
            return (f"start haproxy (pid {self.pids[proxy.name]})",)
        if _is_outdated(daemon.pid_file, path):
            self.pids[proxy.name] = self._replace(daemon, pid)
            return (f"reload haproxy (pid {pid} → {self.pids[proxy.name]})",)
        missing = self._ownership.missing(proxy, pid)
        if missing:
            return self._replace_not_listening(proxy, daemon, pid, " and ".join(map(str, missing)))
        self.pids[proxy.name] = pid
        return ()

    def running(self, proxy: ProxySpec, settings: ProxySettings) -> int | None:
        return self._programs.running_pid(haproxy(proxy.name, proxy.namespace, settings))

    def retire(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Stops HAProxy gracefully while another process listens. Idempotent, also after a crash between its steps."""
        daemon = haproxy(proxy.name, proxy.namespace, settings)
        pid = self._programs.running_pid(daemon)
        self.pids.pop(proxy.name, None)
        self._ownership.forget(proxy.name)
        self._replacements.pop(proxy.name, None)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        daemon.pid_file.unlink(missing_ok=True)
        config_file(proxy.name, settings).unlink(missing_ok=True)
        return (f"retire haproxy (pid {pid})",) if pid is not None else ()

    def remove(self, name: str, namespace: str, settings: ProxySettings) -> tuple[str, ...]:
        """Stops HAProxy, and deletes its configuration. Idempotent."""
        daemon = haproxy(name, namespace, settings)
        path = config_file(name, settings)
        existed = path.exists() or self._programs.running_pid(daemon) is not None
        self.pids.pop(name, None)
        self._ownership.forget(name)
        self._replacements.pop(name, None)
        self._programs.stop(daemon)
        path.unlink(missing_ok=True)
        return ("stop haproxy",) if existed else ()

    def _replace_not_listening(self, proxy: ProxySpec, daemon: Daemon, pid: int, missing: str) -> tuple[str, ...]:
        """Replaces the process once. If the new process does not listen either, raises NotListeningError."""
        if self._replacements.get(proxy.name) == pid:
            raise NotListeningError(f"haproxy (pid {pid}) does not listen on {missing} in {proxy.namespace}")
        self.pids[proxy.name] = self._replacements[proxy.name] = new_pid = self._replace(daemon, pid)
        return (f"replace haproxy, which does not listen on {missing} (pid {pid} → {new_pid})",)

    def _replace(self, daemon: Daemon, old_pid: int) -> int:
        try:
            new_pid = self._programs.start(daemon)
        except Exception:
            # The old process keeps running. An outdated pid file with its PID makes the next pass try again.
            daemon.pid_file.write_text(f"{old_pid}\n")
            os.utime(daemon.pid_file, (0, 0))
            raise
        with contextlib.suppress(ProcessLookupError):
            os.kill(old_pid, signal.SIGUSR1)
        return new_pid


def _is_outdated(pid_file: Path, config: Path) -> bool:
    """Whether the process started before its configuration was written, also if the agent crashed in between."""
    return pid_file.stat().st_mtime_ns < config.stat().st_mtime_ns


FILE_MODE = 0o640
LISTEN_TIMEOUT_SECONDS = 3.0
"""The timeout for the first listener that is missing. The timeout is zero after that, until a listener is found again,
because a metadata agent that is down must not delay every namespace."""
_POLL_SECONDS = 0.005


class DirectDriver:
    """Writes listener files for the metadata agent. Methods return a description of each change."""

    def __init__(self, probe: NamespaceProbe) -> None:
        self._probe = probe
        self._timeout = LISTEN_TIMEOUT_SECONDS
        self._connected: dict[str, frozenset[int]] = {}
        """The sockets that accepted a connection, by proxy. The check is not repeated while they are the same."""
        self._snapshots: dict[str, NamespaceSnapshot] = {}
        """The snapshot of `ensure`, by proxy, for the call of `wait_until_listening` that follows."""

    def ensure(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Writes the listener file. Raises OSError, and the probe's errors."""
        self._snapshots[proxy.name] = snapshot = self._probe.snapshot(proxy.namespace, proxy.addresses)
        desired = DesiredListeners(
            scope=proxy.scope,
            scope_id=proxy.scope_id,
            namespace=proxy.namespace,
            namespace_inode=snapshot.inode,
            addresses=with_indexes(proxy.addresses, snapshot.device_indexes),
        )
        path = listeners_file(proxy.name, settings.state_path)
        changed = write_if_changed(path, render_listeners(desired), FILE_MODE)
        return ("ask the metadata agent to listen",) if changed else ()

    def wait_until_listening(self, proxy: ProxySpec, other_pid: int | None = None) -> None:
        """Waits until a process other than `other_pid` accepts requests. Raises NotListeningError at the timeout."""
        deadline = time.monotonic() + self._timeout
        while missing := self._missing(proxy, other_pid):
            if time.monotonic() >= deadline:
                self._timeout = 0.0
                raise NotListeningError(
                    f"nothing listens on {' and '.join(missing)} in {proxy.namespace}, which the metadata agent should"
                    " do: is openimds metadata-agent running on this host?"
                )
            time.sleep(_POLL_SECONDS)
        self._timeout = LISTEN_TIMEOUT_SECONDS

    def remove(self, name: str, settings: ProxySettings) -> tuple[str, ...]:
        """Deletes the listener file. Idempotent."""
        self._connected.pop(name, None)
        self._snapshots.pop(name, None)
        file = listeners_file(name, settings.state_path)
        existed = file.exists()
        file.unlink(missing_ok=True)
        return ("ask the metadata agent to stop listening",) if existed else ()

    def _missing(self, proxy: ProxySpec, other_pid: int | None) -> list[str]:
        """The addresses that do not accept requests.

        Only IPv4 addresses are checked by a connection. An IPv6 address is unreachable during duplicate address
        detection, and stays so if there is a duplicate. That must not affect requests by IPv4.
        """
        snapshot = self._snapshots.pop(proxy.name, None) or self._probe.snapshot(proxy.namespace, proxy.addresses)
        by_address = self._probe.listening_sockets(proxy.namespace) if other_pid else snapshot.listening
        others = self._probe.sockets_of(other_pid) if other_pid else frozenset()
        expected = [address for address in proxy.addresses if snapshot.has_ipv6 or not address.is_ipv6]
        sockets = {one: by_address.get((one.host, one.port), frozenset()) - others for one in expected}
        listening = frozenset[int]().union(*sockets.values())
        missing = [
            str(address)
            for address, inodes in sockets.items()
            if not inodes
            or not (address.is_ipv6 or self._connected.get(proxy.name) == listening or self._connects(proxy, address))
        ]
        self._connected[proxy.name] = frozenset() if missing else listening
        return missing

    def _connects(self, proxy: ProxySpec, address: ListenAddress) -> bool:
        return self._probe.can_connect(proxy.namespace, address, proxy.access_mark)


class MetadataProxyDriver:
    """Runs the kind of proxy that the settings select. Methods return a description of each change."""

    def __init__(self, programs: DaemonManager, probe: NamespaceProbe) -> None:
        self._haproxy = HaproxyDriver(programs, probe)
        self._direct = DirectDriver(probe)

    @property
    def pids(self) -> Iterable[int]:
        """The PIDs of the HAProxy processes that should be running."""
        return self._haproxy.pids.values()

    def ensure(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Starts or updates the proxy. Raises the errors of HaproxyDriver.ensure or DirectDriver.ensure."""
        if settings.is_direct:
            return self._direct.ensure(proxy, settings)
        return self._haproxy.ensure(proxy, settings) + self._direct.remove(proxy.name, settings)

    def wait_until_listening(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
        """Waits for the metadata agent, and stops HAProxy after a change to direct mode. Raises NotListeningError.

        Callers use this between `ensure` and the report of the ports.
        """
        if not settings.is_direct:
            return ()
        self._direct.wait_until_listening(proxy, self._haproxy.running(proxy, settings))
        return self._haproxy.retire(proxy, settings)

    def remove(self, name: str, namespace: str, settings: ProxySettings) -> tuple[str, ...]:
        """Stops either kind of proxy. Idempotent."""
        return self._haproxy.remove(name, namespace, settings) + self._direct.remove(name, settings)
