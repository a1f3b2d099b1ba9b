"""Makes namespaces and bridges what they are wanted to be, and says what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_interface
from itertools import groupby

from openimds.linux import sysctl
from openimds.linux.configure import dad
from openimds.linux.configure.bridges import Bridges
from openimds.linux.configure.namespace import ChangeApplier, InNamespaceChange, StateReader, delete_veths
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ConfigureError, ProgramError
from openimds.linux.firewall.bridge_forward import SWITCHES
from openimds.linux.firewall.notrack import table_name
from openimds.linux.firewall.ruleset_cache import RulesetCache
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netlink.addresses import neighbours
from openimds.linux.netlink.links import Link, all_links, link_by_name, set_link
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandles
from openimds.netconfig import diff
from openimds.netconfig.namespace_state import Bridge, NamespaceState

MAX_PASSES = 3
"""A change may undo another (the kernel drops routes with their device): look again, but not for ever."""


class NetworkConfigurator:
    """The host's kernel, through which all namespaces and bridges of this system are made and removed.

    `prefix` is the option `namespace_prefix`; it names the host's nftables table. `events` are told what is looked at.
    `known_rules` may know rules from an earlier process.
    """

    def __init__(
        self,
        ledger: OwnershipRecord,
        prefix: str = "",
        events: HostMonitor | None = None,
        known_rules: RulesetCache | None = None,
    ) -> None:
        self._ledger = ledger
        self._events = events
        self._table = table_name(prefix)
        self._bridges = Bridges(ledger, prefix)
        self._known_rules = known_rules or RulesetCache()
        self.handles = NamespaceHandles()
        """Through which the namespaces are looked at."""
        self._observer = StateReader(self.handles, self._known_rules)
        self._right: dict[str, tuple[NamespaceState, NamespaceState]] = {}
        """By namespace: what was wanted, and what was there, when nothing had to be done."""

    def namespaces(self) -> set[str]:
        """Those of this system that exist."""
        return self._ledger.names("netns") & netns.list_names()

    def actual(self, name: str, like: NamespaceState | None = None) -> NamespaceState | None:
        """What is there; `like` says which sysctls and firewall families to read."""
        return StateReader(self.handles, RulesetCache()).observe(like or NamespaceState(name=name))

    def apply(self, wanted: NamespaceState) -> tuple[str, ...]:
        """The changes made, in words. Raises WiringError with all that failed; what could be done is done."""
        done: list[str] = []
        failures: list[str] = []
        for _ in range(MAX_PASSES):
            self._listen(wanted)
            ordered = self._changes(wanted)
            if not ordered:
                return tuple(done)
            failures = self._carry_out(wanted, ordered, done)
            if failures:
                break
        if not failures:
            failures = [f"{diff.describe(change)} does not last" for change in self._changes(wanted)]
        if failures:
            raise ConfigureError(wanted.name, failures)
        return tuple(done)

    def remove_namespace(self, name: str) -> None:
        """With all that runs and all that is plugged in it. Idempotent. Raises WiringError."""
        if self._events:
            self._events.left(name)
        self.handles.close(name)
        self._observer.forget(name)
        self._right.pop(name, None)
        if netns.exists(name):
            netns.kill_processes_in(name)
            for host_name in delete_veths(name):
                self._ledger.forget("link", host_name)
        try:
            netns.delete(name)
        except OSError as error:
            raise ConfigureError(name, [f"remove the namespace: {_reason(error)}"]) from error
        self._ledger.forget("netns", name)
        self._known_rules.forget(name)

    def ensure_bridge(self, bridge: Bridge) -> tuple[str, ...]:
        """The changes made, in words. Raises WiringError."""
        if self._events:
            self._events.link(bridge.name, without_ipv6=True)
            self._events.table(self._table)
            self._events.forwarding(SWITCHES.values())
        try:
            return self._bridges.ensure(bridge)
        except (OSError, ProgramError) as error:
            raise ConfigureError(bridge.name, [str(error)]) from error
        finally:
            if self._events and self._bridges.is_overdue:
                self._events.look_again()

    def remove_bridge(self, name: str) -> bool:
        """Whether it is gone: one that still has ports stays. Idempotent. Raises WiringError."""
        try:
            return self._bridges.remove(name)
        except (OSError, ProgramError) as error:
            raise ConfigureError(name, [str(error)]) from error

    def bridges(self) -> set[str]:
        """Those of this system that exist."""
        return self._bridges.names()

    def neighbours(self, namespace: str, device: str) -> Mapping[str, str]:
        """IP address → MAC address that the namespace has heard of on this device; empty if there is no such."""

        def read() -> dict[str, str]:
            link = link_by_name(device)
            return neighbours(link.index) if link else {}

        try:
            return netns.run_in(namespace, read)
        except netns.NamespaceMissingError:
            return {}

    def dad_state(self, namespace: str, device: str, interface: str) -> dad.DadState | None:
        """How far duplicate address detection has come; None: there is no such address. Raises WiringError."""
        try:
            with self.handles.open(namespace) as handle:
                found = dad.dad_state(handle, device, interface)
        except (OSError, netns.NamespaceMissingError) as error:
            raise ConfigureError(namespace, [f"look at {interface} on {device}: {error}"]) from error
        if self._events is None or (found is not None and found.is_tentative):
            return found
        if found is None or not found.is_duplicate:
            self._events.uncontested(namespace, device)
            return found
        address = str(ip_interface(interface).ip)
        return replace(found, is_unanswered=self._events.contested(namespace, device, address))

    def restart_dad(self, namespace: str, device: str, interface: str) -> None:
        """Of an address that was found to be somebody else's. Raises WiringError."""
        try:
            dad.restart_dad(namespace, device, interface)
        except (OSError, netns.NamespaceMissingError) as error:
            raise ConfigureError(namespace, [f"set {interface} on {device} again: {error}"]) from error

    def links(self, namespace: str | None = None) -> dict[str, Link]:
        """By name; None: the root namespace. Raises NamespaceMissingError."""
        found = all_links() if namespace is None else netns.run_in(namespace, all_links)
        return {link.name: link for link in found}

    def plug(self, host_name: str, bridge: str) -> bool:
        """Put another program's tap (a hypervisor's) on the bridge. False: there is no such device.

        Raises WiringError.
        """
        if self._events:
            self._events.link(host_name, without_ipv6=True)
            self._events.link(bridge)
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
        """Take a device off its bridge, and down, so that the host's own stack hears nothing of it. Idempotent.

        The changes made, in words. Raises WiringError.
        """
        try:
            link = link_by_name(host_name)
            if link is None or not link.master_index:
                return ()
            set_link(link.index, master_index=0, up=False)
        except OSError as error:
            raise ConfigureError(host_name, [f"unplug: {_reason(error)}"]) from error
        return (f"unplug {host_name}",)

    def _changes(self, wanted: NamespaceState) -> tuple[diff.Change, ...]:
        actual = self._observer.observe(wanted)
        right = self._right.get(wanted.name)
        if actual is not None and right is not None and right[1] is actual and right[0] == wanted:
            return ()
        ordered = diff.changes(wanted, actual)
        if actual is not None and not ordered:
            self._right[wanted.name] = (wanted, actual)
        return ordered

    def _listen(self, wanted: NamespaceState) -> None:
        """Before the look: what is changed after it is heard of."""
        if self._events is None:
            return
        has_rules = bool(wanted.ipv4_rules.tables or wanted.ipv6_rules.tables)
        is_guests = wanted.owner_uid is not None
        differ = partial(self.handles.settings_differ, wanted.name, wanted.sysctls)
        self._events.namespace(wanted.name, is_guests=is_guests, with_rules=has_rules, settings_differ=differ)
        for device in wanted.devices:
            self._events.link(device.host_name)
            self._events.link(device.bridge)
        self._events.settle()

    def _carry_out(self, wanted: NamespaceState, ordered: tuple[diff.Change, ...], done: list[str]) -> list[str]:
        """Goes on after a failure; what failed, in words."""
        failures: list[str] = []
        executor = ChangeApplier(wanted, self._ledger)
        for is_inside, group in groupby(ordered, key=lambda change: isinstance(change, InNamespaceChange)):
            work = partial(_apply_all, executor, tuple(group), done, failures)
            try:
                netns.run_in(wanted.name, work) if is_inside else work()
            except netns.NamespaceMissingError as error:  # it could not be made, or somebody removed it
                failures.append(str(error))
                break
        return failures


def _apply_all(executor: ChangeApplier, several: Iterable[diff.Change], done: list[str], failures: list[str]) -> None:
    """Goes on after a failure, but not without the namespace."""
    for change in several:
        try:
            executor.do(change)
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
