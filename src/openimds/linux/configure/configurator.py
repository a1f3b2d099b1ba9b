"""Reads namespaces and bridges, and changes them to the desired state."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_interface
from itertools import groupby

from openimds.linux import sysctl
from openimds.linux.configure import neighbour_discovery
from openimds.linux.configure.namespace import ChangeApplier, InNamespaceChange, StateReader, delete_veths
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ConfigureError, ProgramError
from openimds.linux.firewall.bridge_forward import SWITCHES, BridgeForwardRule
from openimds.linux.firewall.notrack import BridgeNotrack, table_name
from openimds.linux.firewall.ruleset_cache import RulesetCache
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netlink.addresses import neighbours
from openimds.linux.netlink.links import Link, add_bridge, all_links, delete_link, has_ports, link_by_name, set_link
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandles
from openimds.linux.process import by_namespace
from openimds.netconfig import diff
from openimds.netconfig.namespace_state import Bridge, NamespaceState

BRIDGE_PREFIX = "brq"


class Bridges:
    """The networks' bridges in the root namespace, and the host's firewall rules for the packets on them.

    `prefix` is the option `namespace_prefix`.
    """

    def __init__(self, ownership: OwnershipRecord, prefix: str) -> None:
        self._ownership = ownership
        self._notrack = BridgeNotrack(prefix)
        self._forward_rule = BridgeForwardRule()

    def ensure(self, bridge: Bridge) -> tuple[str, ...]:
        """Creates or repairs a bridge, and returns descriptions of the changes. Raises OSError, ProgramError."""
        done = []
        link = link_by_name(bridge.name)
        if link is None:
            self._ownership.add("link", bridge.name)
            _add_once(bridge)
            link = link_by_name(bridge.name)
            done.append(f"create bridge {bridge.name}")
        if link is None:
            raise OSError(errno.ENODEV, f"bridge {bridge.name} disappeared while it was created")
        if self._notrack.add(bridge.name):
            done.append(f"exempt bridge {bridge.name} from connection tracking")
        if self._forward_rule.add(bridge.name):
            done.append(f"accept forwarding within bridge {bridge.name} in the host's firewall")
        sysctl.disable_ipv6(bridge.name)
        if link.mtu != bridge.mtu or not link.up:
            set_link(link.index, mtu=bridge.mtu, up=True)
            done.append(f"set bridge {bridge.name} up, mtu {bridge.mtu}")
        return tuple(done)

    @property
    def is_overdue(self) -> bool:
        """The host's rules have changed since they were last read, and the next read is not due yet."""
        return self._notrack.is_overdue or self._forward_rule.is_overdue

    def remove(self, name: str) -> bool:
        """Deletes a bridge without ports. Returns False if the bridge has ports, and keeps it. Idempotent."""
        link = link_by_name(name)
        if link is not None:
            if has_ports(link.index):
                return False
            delete_link(link.index)
        self._notrack.remove(name)
        self._forward_rule.remove(name)
        self._ownership.remove("link", name)
        return True

    def names(self) -> set[str]:
        """The existing bridges of this system."""
        recorded = {name for name in self._ownership.names("link") if name.startswith(BRIDGE_PREFIX)}
        found = (link_by_name(name) for name in recorded)
        return {link.name for link in found if link is not None and link.kind == "bridge"}


def _add_once(bridge: Bridge) -> None:
    try:
        add_bridge(bridge.name, bridge.mtu)
    except OSError as error:
        if error.errno != errno.EEXIST:  # another agent of this host has just created it
            raise


MAX_PASSES = 3
"""A change may undo another one (the kernel removes routes together with their device), so the state is read again."""


class NetworkConfigurator:
    """Creates, changes and removes the namespaces and bridges of this system.

    `prefix` is the option `namespace_prefix`, which names the host's nftables table. `monitor` watches every object that
    is read. `ruleset_cache` may contain rules that an earlier process read.
    """

    def __init__(
        self,
        ownership: OwnershipRecord,
        prefix: str = "",
        monitor: HostMonitor | None = None,
        ruleset_cache: RulesetCache | None = None,
    ) -> None:
        self._ownership = ownership
        self._monitor = monitor
        self._table = table_name(prefix)
        self._bridges = Bridges(ownership, prefix)
        self._ruleset_cache = ruleset_cache or RulesetCache()
        self.handles = NamespaceHandles()
        """The open handles through which the namespaces are read."""
        self._reader = StateReader(self.handles, self._ruleset_cache)
        self._converged: dict[str, tuple[NamespaceState, NamespaceState]] = {}
        """Namespace → desired and actual state of the last pass that found no difference."""

    def namespaces(self) -> set[str]:
        """The existing namespaces of this system."""
        return self._ownership.names("netns") & netns.list_names()

    def actual(self, name: str, like: NamespaceState | None = None) -> NamespaceState | None:
        """The actual state of a namespace, or None. `like` selects the sysctls and firewall families to read."""
        return StateReader(self.handles, RulesetCache()).read(like or NamespaceState(name=name))

    def apply(self, desired: NamespaceState) -> tuple[str, ...]:
        """Changes a namespace to the desired state, and returns descriptions of the changes.

        Raises ConfigureError with all failures. The other changes are applied.
        """
        done: list[str] = []
        failures: list[str] = []
        for _ in range(MAX_PASSES):
            self._watch(desired)
            ordered = self._changes(desired)
            if not ordered:
                return tuple(done)
            failures = self._apply_changes(desired, ordered, done)
            if failures:
                break
        if not failures:
            failures = [f"{diff.describe(change)} was undone by another change" for change in self._changes(desired)]
        if failures:
            raise ConfigureError(desired.name, failures)
        return tuple(done)

    def remove_namespace(self, name: str) -> None:
        """Removes a namespace with its processes and devices. Idempotent. Raises ConfigureError."""
        if self._monitor:
            self._monitor.unwatch_namespace(name)
        self.handles.close(name)
        self._reader.forget(name)
        self._converged.pop(name, None)
        if netns.exists(name):
            by_namespace.kill_processes_in(name)
            for host_name in delete_veths(name):
                self._ownership.remove("link", host_name)
        try:
            netns.delete(name)
        except OSError as error:
            raise ConfigureError(name, [f"remove the namespace: {_reason(error)}"]) from error
        self._ownership.remove("netns", name)
        self._ruleset_cache.forget(name)

    def ensure_bridge(self, bridge: Bridge) -> tuple[str, ...]:
        """Creates or repairs a bridge, and returns descriptions of the changes. Raises ConfigureError."""
        if self._monitor:
            self._monitor.watch_link(bridge.name, without_ipv6=True)
            self._monitor.watch_table(self._table)
            self._monitor.watch_forwarding(SWITCHES.values())
        try:
            return self._bridges.ensure(bridge)
        except (OSError, ProgramError) as error:
            raise ConfigureError(bridge.name, [str(error)]) from error
        finally:
            if self._monitor and self._bridges.is_overdue:
                self._monitor.recheck()

    def remove_bridge(self, name: str) -> bool:
        """Deletes a bridge without ports. Returns False if the bridge has ports, and keeps it. Idempotent.

        Raises ConfigureError.
        """
        try:
            return self._bridges.remove(name)
        except (OSError, ProgramError) as error:
            raise ConfigureError(name, [str(error)]) from error

    def bridges(self) -> set[str]:
        """The existing bridges of this system."""
        return self._bridges.names()

    def neighbours(self, namespace: str, device: str) -> Mapping[str, str]:
        """The neighbour table of a device, as IP address → MAC address. Empty if the device does not exist."""

        def read() -> dict[str, str]:
            link = link_by_name(device)
            return neighbours(link.index) if link else {}

        try:
            return netns.run_in(namespace, read)
        except netns.NamespaceMissingError:
            return {}

    def own_devices(self, names: Collection[str]) -> set[str]:
        """Those of the host's devices that this system created and that exist."""
        return {name for name in self._ownership.names("link").intersection(names) if link_by_name(name) is not None}

    def dad_state(self, namespace: str, device: str, interface: str) -> neighbour_discovery.DadState | None:
        """The state of duplicate address detection, or None if the address does not exist. Raises ConfigureError."""
        try:
            with self.handles.open(namespace) as handle:
                found = neighbour_discovery.dad_state(handle, device, interface)
        except (OSError, netns.NamespaceMissingError) as error:
            raise ConfigureError(namespace, [f"read {interface} on {device}: {error}"]) from error
        if self._monitor is None or (found is not None and found.is_tentative):
            return found
        if found is None or not found.is_duplicate:
            self._monitor.stop_probe(namespace, device)
            return found
        address = str(ip_interface(interface).ip)
        return replace(found, is_unanswered=self._monitor.probe_duplicate(namespace, device, address))

    def restart_dad(self, namespace: str, device: str, interface: str) -> None:
        """Restarts duplicate address detection for an address that was found on another host. Raises ConfigureError."""
        try:
            neighbour_discovery.restart_dad(namespace, device, interface)
        except (OSError, netns.NamespaceMissingError) as error:
            raise ConfigureError(namespace, [f"add {interface} to {device} again: {error}"]) from error

    def links(self, namespace: str | None = None) -> dict[str, Link]:
        """The links of a namespace by name, or of the root namespace if it is None. Raises NamespaceMissingError."""
        found = all_links() if namespace is None else netns.run_in(namespace, all_links)
        return {link.name: link for link in found}

    def plug(self, host_name: str, bridge: str) -> bool:
        """Adds another program's tap device (a hypervisor's) to the bridge. Returns False if there is no such device.

        Raises ConfigureError.
        """
        if self._monitor:
            self._monitor.watch_link(host_name, without_ipv6=True)
            self._monitor.watch_link(bridge)
        try:
            link, master = link_by_name(host_name), link_by_name(bridge)
            if link is None or master is None:
                return False
            sysctl.disable_ipv6(host_name)
            if link.master_index != master.index or not link.up:
                set_link(link.index, master_index=master.index, up=True)
        except OSError as error:
            raise ConfigureError(host_name, [f"plug into {bridge}: {error}"]) from error
        return True

    def unplug(self, host_name: str) -> tuple[str, ...]:
        """Removes a device from its bridge, and sets it down, so that the host's network stack receives no packets from
        it.

        Idempotent. Returns descriptions of the changes. Raises ConfigureError.
        """
        try:
            link = link_by_name(host_name)
            if link is None or not link.master_index:
                return ()
            set_link(link.index, master_index=0, up=False)
        except OSError as error:
            raise ConfigureError(host_name, [f"unplug: {_reason(error)}"]) from error
        return (f"unplug {host_name}",)

    def _changes(self, desired: NamespaceState) -> tuple[diff.Change, ...]:
        actual = self._reader.read(desired)
        converged = self._converged.get(desired.name)
        if actual is not None and converged is not None and converged[1] is actual and converged[0] == desired:
            return ()
        ordered = diff.changes(desired, actual)
        if actual is not None and not ordered:
            self._converged[desired.name] = (desired, actual)
        return ordered

    def _watch(self, desired: NamespaceState) -> None:
        """Watches the namespace and its devices, before the state is read, so that later changes cause events."""
        if self._monitor is None:
            return
        has_rules = bool(desired.ipv4_rules.tables or desired.ipv6_rules.tables)
        is_guests = desired.owner_uid is not None
        differ = partial(self.handles.settings_differ, desired.name, desired.sysctls)
        self._monitor.watch_namespace(desired.name, is_guests=is_guests, with_rules=has_rules, settings_differ=differ)
        for device in desired.devices:
            self._monitor.watch_link(device.host_name)
            self._monitor.watch_link(device.bridge)
        self._monitor.drain()

    def _apply_changes(self, desired: NamespaceState, ordered: tuple[diff.Change, ...], done: list[str]) -> list[str]:
        """Applies changes, and returns descriptions of the failures. Goes on after a failure."""
        failures: list[str] = []
        applier = ChangeApplier(desired, self._ownership)
        for in_namespace, group in groupby(ordered, key=lambda change: isinstance(change, InNamespaceChange)):
            work = partial(_apply_all, applier, tuple(group), done, failures)
            try:
                netns.run_in(desired.name, work) if in_namespace else work()
            except netns.NamespaceMissingError as error:  # the creation failed, or another program deleted it
                failures.append(str(error))
                break
        return failures


def _apply_all(applier: ChangeApplier, changes: Iterable[diff.Change], done: list[str], failures: list[str]) -> None:
    """Applies changes and goes on after a failure, except if the namespace could not be created."""
    for change in changes:
        try:
            applier.apply(change)
        except sysctl.MissingSettingError:
            continue
        except (OSError, ProgramError, ConfigureError, netns.NamespaceMissingError) as error:
            failures.append(f"{diff.describe(change)}: {_reason(error)}")
            if isinstance(change, diff.CreateNamespace):
                break
        else:
            done.append(diff.describe(change))


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
