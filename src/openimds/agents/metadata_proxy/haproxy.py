"""Whether a process listens where it should, as the kernel says inside the namespace; not as its command line does.

Keeps namespaces' HAProxies running with the configuration that is wanted.

A new configuration is taken by a new process beside the old one: both listen (SO_REUSEPORT), then the old one is told
to finish what it has. Connections that wait in its queue move over (`net.ipv4.tcp_migrate_req`, set in the namespace),
so none is lost; and the process looks in `ps` as it always did, which `-sf` or a master process would change.

One that runs without listening where it should is replaced: it read a configuration that is no more, or an address that
could not be had at its start.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from openimds.agents.atomic_write import write_if_changed
from openimds.agents.metadata_proxy.protocols import Namespaces, NotListeningError
from openimds.agents.protocols import DaemonManager
from openimds.netconfig.haproxy import ProxySettings, ProxySpec, config_file, haproxy, haproxy_config
from openimds.netconfig.listener_file import ListenAddress
from openimds.netconfig.namespace_state import Daemon


class SocketOwnership:
    """The kernel names one socket an address. Which process has it is looked up when it is another than before."""

    def __init__(self, namespaces: Namespaces) -> None:
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

    def __init__(self, programs: DaemonManager, namespaces: Namespaces) -> None:
        self._programs = programs
        self._held = SocketOwnership(namespaces)
        self.pids: dict[str, int] = {}
        """By proxy: which process should be running."""
        self._replacements: dict[str, int] = {}
        """By proxy: the process that took the place of one that did not listen."""

    def keep(self, proxy: ProxySpec, settings: ProxySettings) -> tuple[str, ...]:
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

    def drop(self, name: str, namespace: str, settings: ProxySettings) -> tuple[str, ...]:
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
