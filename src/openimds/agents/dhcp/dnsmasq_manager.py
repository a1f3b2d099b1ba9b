"""Keeps the dnsmasq of each network running, reloads its files, and releases leases that block an address.

dnsmasq handles a pending SIGHUP before it reads the next packet, because it has one thread and polls the signal pipe
first. So as soon as `kill` has returned, each request is answered from the new files, and the port may be reported.
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
    LeaseRecord,
    desired_leases,
    parse_hosts,
    parse_leases,
    stale_leases,
    without_leases,
)
from openimds.netconfig.namespace_state import Daemon


@dataclass(frozen=True, slots=True)
class DnsmasqInstance:
    """The desired dnsmasq process of a network, and its files."""

    dhcp: DhcpNetwork
    daemon: Daemon
    files: DnsmasqFiles
    paths: DnsmasqPaths
    owner_uid: int | None = None
    """The user that dnsmasq switches to; None if it is not known."""


FILE_MODE = 0o600


class DnsmasqManager:
    """Starts, reloads and stops dnsmasq. Methods return a description of each change."""

    def __init__(self, programs: DaemonManager, run: RunProgram) -> None:
        self._programs = programs
        self._run = run
        self._read: dict[str, tuple[int, DnsmasqFiles]] = {}
        """The PID and the files that it has read, by network. Empty after a restart of the agent, so dnsmasq reloads."""
        self._without_stale: dict[str, tuple[DhcpNetwork, str, str]] = {}
        """The last network, hosts file and lease file that had no stale lease, by network id."""

    def ensure(self, instance: DnsmasqInstance) -> tuple[str, ...]:
        """Raises OSError, and the errors of DaemonManager.start."""
        network_id = instance.dhcp.network.id
        former_hosts = _read_or_empty(instance.paths.hosts)
        _write(instance)
        pid = self._programs.running_pid(instance.daemon)
        changes: tuple[str, ...] = ()
        if pid is None:
            self._programs.stop_stale(instance.daemon)  # a process with another command line occupies UDP port 67
            pid = self._programs.start(instance.daemon)
            changes = (f"start dnsmasq (pid {pid})",)
        elif self._read.get(network_id) != (pid, instance.files):
            self._programs.send_signal(instance.daemon, signal.SIGHUP)
            changes = (f"reload dnsmasq (pid {pid})",)
        self._read[network_id] = (pid, instance.files)
        return (*changes, *self._release_stale(instance, former_hosts))

    @property
    def pids(self) -> frozenset[int]:
        """The PIDs that should be running."""
        return frozenset(pid for pid, _files in self._read.values())

    def remove(self, network_id: str, daemon: Daemon) -> None:
        """Stops dnsmasq. Idempotent. The files remain until `delete_files`."""
        self._programs.stop(daemon)
        self._programs.stop_stale(daemon)
        self._read.pop(network_id, None)
        self._without_stale.pop(network_id, None)

    def _release_stale(self, instance: DnsmasqInstance, former_hosts: str) -> tuple[str, ...]:
        """Releases the leases of former owners. `former_hosts` is the hosts file before this pass."""
        network_id, text = instance.dhcp.network.id, _read_or_empty(instance.paths.leases)
        if self._without_stale.get(network_id) == (instance.dhcp, former_hosts, text):
            return ()
        actual = parse_leases(text)
        desired = {lease.ip_address: lease.port.mac_address.lower() for lease in desired_leases(instance.dhcp)}
        stale = tuple(stale_leases(actual.leases, desired, parse_hosts(former_hosts)))
        if not stale:
            self._without_stale[network_id] = (instance.dhcp, former_hosts, text)
            return ()
        try:
            for lease in stale:
                command = _release_command(instance.dhcp, lease, actual.server_duid)
                self._run(command, namespace=instance.daemon.namespace)
        except Exception as error:  # noqa: BLE001 - dhcp_release may be missing or fail
            return (*self._restart_without(instance, stale), f"because a lease could not be released: {error}")
        return tuple(
            f"release the lease of {lease.ip_address} ({lease.mac_address or lease.client_id})" for lease in stale
        )

    def _restart_without(self, instance: DnsmasqInstance, stale: tuple[LeaseRecord, ...]) -> tuple[str, ...]:
        """Restarts dnsmasq without the stale leases, because dnsmasq reads the lease file only at its start."""
        addresses = {lease.ip_address for lease in stale}
        self._programs.stop(instance.daemon)
        write_if_changed(instance.paths.leases, without_leases(_read_or_empty(instance.paths.leases), addresses))
        pid = self._programs.start(instance.daemon)
        self._read[instance.dhcp.network.id] = (pid, instance.files)
        return (f"start dnsmasq (pid {pid}) without the leases of {', '.join(sorted(addresses))}",)


def delete_files(paths: DnsmasqPaths) -> None:
    """Deletes the files of a network's dnsmasq. Idempotent."""
    for path in (paths.hosts, paths.names, paths.options, paths.leases, paths.pid, paths.interface):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the folder contains a file of another program
        paths.folder.rmdir()


def _read_or_empty(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _write(instance: DnsmasqInstance) -> None:
    """Writes the files. Only the user that dnsmasq switches to can read them, if it is known."""
    mode = FILE_MODE if instance.owner_uid is not None else 0o644
    for path, text in (
        (instance.paths.hosts, instance.files.hosts),
        (instance.paths.names, instance.files.names),
        (instance.paths.options, instance.files.options),
        (instance.paths.interface, instance.dhcp.device_name),
    ):
        write_if_changed(path, text, mode, instance.owner_uid)


def _release_command(dhcp: DhcpNetwork, lease: LeaseRecord, server_duid: str | None) -> tuple[str, ...]:
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
