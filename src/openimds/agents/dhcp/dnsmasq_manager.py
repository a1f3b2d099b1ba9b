"""Keeps a network's dnsmasq running, with the files it should have read, and with no lease in another port's way.

dnsmasq heeds a pending SIGHUP before it reads the next packet (one thread, and the signal's pipe is looked at first), so
once `kill` has returned, a guest that asks is answered from the new files: its port may be reported.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path

from openimds.agents.atomic_write import write_if_changed
from openimds.agents.protocols import DaemonManager, RunProgram
from openimds.netconfig.dhcp_network import DhcpNetwork
from openimds.netconfig.dnsmasq_command import DnsmasqPaths
from openimds.netconfig.dnsmasq_files import (
    DnsmasqFiles,
    HeldLease,
    desired_leases,
    parse_hosts,
    parse_leases,
    stale_leases,
    without_leases,
)
from openimds.netconfig.namespace_state import Daemon


@dataclass(frozen=True, slots=True)
class DnsmasqInstance:
    """One network's server as it should be."""

    dhcp: DhcpNetwork
    daemon: Daemon
    files: DnsmasqFiles
    paths: DnsmasqPaths


class DnsmasqManager:
    """Says in words what it changed; nothing when all is right."""

    def __init__(self, programs: DaemonManager, run: RunProgram) -> None:
        self._programs = programs
        self._run = run
        self._read: dict[str, tuple[int, DnsmasqFiles]] = {}
        """By network: which process has read what. Unknown after a restart of the agent: then it reads again."""
        self._none_stale: dict[str, tuple[DhcpNetwork, str, str]] = {}
        """By network: with which hosts' and leases' texts no lease was in the way."""

    def ensure(self, served: DnsmasqInstance) -> tuple[str, ...]:
        """Raises what starting a program raises, and OSError."""
        network_id = served.dhcp.network.id
        former = _read_or_empty(served.paths.hosts)
        _write(served)
        pid = self._programs.running_pid(served.daemon)
        words: tuple[str, ...] = ()
        if pid is None:
            self._programs.stop_stale(served.daemon)  # one with another command line holds the port
            pid = self._programs.start(served.daemon)
            words = (f"start dnsmasq (pid {pid})",)
        elif self._read.get(network_id) != (pid, served.files):
            self._programs.send_signal(served.daemon, signal.SIGHUP)
            words = (f"let dnsmasq (pid {pid}) read its files",)
        self._read[network_id] = (pid, served.files)
        return (*words, *self._release(served, former))

    @property
    def pids(self) -> frozenset[int]:
        """Which processes should be running."""
        return frozenset(pid for pid, _files in self._read.values())

    def remove(self, network_id: str, daemon: Daemon) -> None:
        """Idempotent. Its files stay until `delete_files`."""
        self._programs.stop(daemon)
        self._programs.stop_stale(daemon)
        self._read.pop(network_id, None)
        self._none_stale.pop(network_id, None)

    def _release(self, served: DnsmasqInstance, former: str) -> tuple[str, ...]:
        """`former`: the hosts' file as it was."""
        network_id, text = served.dhcp.network.id, _read_or_empty(served.paths.leases)
        if self._none_stale.get(network_id) == (served.dhcp, former, text):
            return ()
        held = parse_leases(text)
        wanted = {lease.ip_address: lease.port.mac_address.lower() for lease in desired_leases(served.dhcp)}
        stale = tuple(stale_leases(held.leases, wanted, parse_hosts(former)))
        if not stale:
            self._none_stale[network_id] = (served.dhcp, former, text)
            return ()
        try:
            for lease in stale:
                self._run(_release_command(served.dhcp, lease, held.server_duid), namespace=served.daemon.namespace)
        except Exception as error:  # noqa: BLE001 - whatever the runner raises: it is not installed, it fails
            return (*self._start_without(served, stale), f"because a lease could not be released: {error}")
        return tuple(f"release the lease of {one.ip_address} ({one.mac_address or one.client_id})" for one in stale)

    def _start_without(self, served: DnsmasqInstance, stale: tuple[HeldLease, ...]) -> tuple[str, ...]:
        """Dnsmasq keeps its leases in mind and reads the file only at its start."""
        addresses = {lease.ip_address for lease in stale}
        self._programs.stop(served.daemon)
        write_if_changed(served.paths.leases, without_leases(_read_or_empty(served.paths.leases), addresses))
        pid = self._programs.start(served.daemon)
        self._read[served.dhcp.network.id] = (pid, served.files)
        return (f"start dnsmasq (pid {pid}) without the leases of {', '.join(sorted(addresses))}",)


def delete_files(paths: DnsmasqPaths) -> None:
    """Idempotent."""
    for path in (paths.hosts, paths.names, paths.options, paths.leases, paths.pid, paths.interface):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody put a file of his own there: it stays
        paths.folder.rmdir()


def _read_or_empty(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _write(served: DnsmasqInstance) -> None:
    write_if_changed(served.paths.hosts, served.files.hosts)
    write_if_changed(served.paths.names, served.files.names)
    write_if_changed(served.paths.options, served.files.options)
    write_if_changed(served.paths.interface, served.dhcp.device_name)


def _release_command(dhcp: DhcpNetwork, lease: HeldLease, server_duid: str | None) -> tuple[str, ...]:
    device = dhcp.device_name
    if lease.mac_address is not None:
        return ("dhcp_release", device, lease.ip_address, lease.mac_address)
    return (
        "dhcp_release6",
        f"--iface={device}",
        f"--ip={lease.ip_address}",
        f"--client-id={lease.client_id or ''}",
        f"--server-id={server_duid or ''}",
        f"--iaid={lease.iaid or ''}",
    )
