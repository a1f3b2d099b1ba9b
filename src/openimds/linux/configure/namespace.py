"""Reads the actual state of a namespace, creates namespaces, and applies single changes to them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from openimds.linux import sysctl
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.configure.user_namespace import create_in_user_namespace
from openimds.linux.firewall.iptables import replace_table
from openimds.linux.firewall.ruleset_cache import RulesetCache, ruleset_here
from openimds.linux.netlink.addresses import Address, add_address, delete_address
from openimds.linux.netlink.links import (
    Link,
    add_veth,
    all_links,
    delete_link,
    host_end,
    link_by_index,
    link_by_name,
    set_link,
)
from openimds.linux.netlink.routes import delete_route, put_route
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandles
from openimds.linux.process.daemons import run
from openimds.netconfig import diff
from openimds.netconfig.addresses import link_local
from openimds.netconfig.diff import Family
from openimds.netconfig.namespace_state import Device, NamespaceState, Route, Rules

MTU_DIFFERS = 0
"""The MTU of a veth pair whose ends have different ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observation:
    """The data read from the kernel. Equal data mean an equal state if the desired state is also equal."""

    links: tuple[Link, ...]
    addresses: tuple[Address, ...]
    routes: frozenset[Route]
    settings: Mapping[str, str]
    hosts: tuple[_HostEnd, ...]
    rules: Mapping[Family, Rules]


@dataclass(frozen=True, slots=True)
class _HostEnd:
    """The host's end of a veth pair, and the name of its bridge."""

    link: Link | None
    bridge: str


class StateReader:
    """Reads the state of namespaces. Used by one thread.

    Returns the same object as long as neither the namespace nor the desired state changes.
    """

    def __init__(self, handles: NamespaceHandles, ruleset_cache: RulesetCache) -> None:
        self._handles = handles
        self._ruleset_cache = ruleset_cache
        self._last: dict[str, tuple[NamespaceState, _Observation, NamespaceState]] = {}
        """Namespace → desired state, data read, and actual state."""

    def read(self, desired: NamespaceState) -> NamespaceState | None:
        """The actual state of the namespace `desired.name`, or None if it does not exist.

        Only the sysctls, and the firewall families, that occur in the desired state are read.
        """
        try:
            observed = self._observe(desired)
        except netns.NamespaceMissingError:
            self.forget(desired.name)
            return None
        last = self._last.get(desired.name)
        if last is not None and last[0] == desired and last[1] == observed:
            return last[2]
        state = _namespace_state(desired, observed)
        self._last[desired.name] = (desired, observed, state)
        return state

    def forget(self, name: str) -> None:
        self._last.pop(name, None)

    def _observe(self, desired: NamespaceState) -> _Observation:
        families = managed_families(desired)
        with self._handles.open(desired.name) as handle:
            ruleset = netns.run_in(desired.name, ruleset_here) if families else None
            links = handle.links()
            names = frozenset(link.name for link in links) | {device.name for device in desired.devices}
            return _Observation(
                links=links,
                addresses=handle.addresses(),
                routes=handle.routes(links) if desired.routes is not None else frozenset(),
                settings=handle.sysctls(desired.sysctls, names),
                hosts=tuple(_read_host_end(link) for link in links if link.kind == "veth"),
                rules=self._ruleset_cache.rules(desired.name, families, ruleset) if families else {},
            )


def _namespace_state(desired: NamespaceState, observed: _Observation) -> NamespaceState:
    keep = frozenset(address for device in desired.devices for address in device.addresses or ())
    unmanaged = {device.name: device for device in desired.devices if device.addresses is None}
    veths = [link for link in observed.links if link.kind == "veth"]
    return NamespaceState(
        name=desired.name,
        devices=tuple(
            _unmanaged_device(unmanaged[link.name], host)
            if link.name in unmanaged
            else _device(
                link, host, [address for address in observed.addresses if address.link_index == link.index], keep
            )
            for link, host in zip(veths, observed.hosts, strict=True)
        ),
        routes=observed.routes,
        sysctls=observed.settings,
        ipv4_rules=observed.rules["ipv4"] if desired.ipv4_rules.tables else Rules(),
        ipv6_rules=observed.rules["ipv6"] if desired.ipv6_rules.tables else Rules(),
    )


def managed_families(desired: NamespaceState) -> tuple[Family, ...]:
    """The firewall families for which the desired state has tables."""
    ipv4: tuple[Family, ...] = ("ipv4",) if desired.ipv4_rules.tables else ()
    return (*ipv4, "ipv6") if desired.ipv6_rules.tables else ipv4


def _device(link: Link, host: _HostEnd, addresses: Iterable[Address], keep: frozenset[str]) -> Device:
    other = host.link
    return Device(
        name=link.name,
        host_name=other.name if other else "",
        bridge=host.bridge,
        mac_address=link.mac_address,
        mtu=link.mtu if other is None or other.mtu == link.mtu else MTU_DIFFERS,
        addresses=frozenset(
            address.interface
            for address in addresses
            if address.interface in keep or not is_kernel_assigned(address, link)
        ),
        up=link.up and other is not None and other.up,
    )


def _unmanaged_device(desired: Device, host: _HostEnd) -> Device:
    """A NIC that the instance configures itself. Only the host's end is compared.

    MAC, MTU and state inside the namespace are the instance's business. Port security filters its packets.
    """
    other = host.link
    return replace(
        desired,
        host_name=other.name if other else "",
        bridge=host.bridge,
        mtu=other.mtu if other else MTU_DIFFERS,
        up=other is not None and other.up,
    )


def _read_host_end(link: Link) -> _HostEnd:
    host = host_end(link)
    if host is None:
        return _HostEnd(None, "")
    bridge = link_by_index(host.master_index) if host.master_index else None
    return _HostEnd(host, bridge.name if bridge else "")


def is_kernel_assigned(address: Address, link: Link) -> bool:
    """True if the kernel assigned the address, from a router advertisement or as link-local (RFC 4291, appendix A)."""
    if not address.permanent:
        return True
    return bool(link.mac_address) and str(ip_interface(address.interface).ip) == link_local(link.mac_address)


def create_namespace(name: str, ownership: OwnershipRecord, owner_uid: int | None = None) -> None:
    """Creates a namespace and sets its loopback up. `owner_uid` as in NamespaceState. Raises ProgramError, OSError.

    A mount point that a crash left behind is removed first.
    """
    netns.ensure_folder()
    ownership.add("netns", name)
    if name in netns.list_names() and not netns.exists(name):
        netns.delete(name)
    if owner_uid is None:
        if not netns.create(name):
            run(["ip", "netns", "add", name])
    else:
        create_in_user_namespace(name, owner_uid)

    def prepare() -> None:
        loopback = link_by_name("lo")
        if loopback is not None:
            set_link(loopback.index, up=True)
        # Without this setting the kernel removes all addresses of a subnet together with the first one.
        sysctl.write_sysctl("net.ipv4.conf.all.promote_secondaries", "1")

    netns.run_in(name, prepare)


def delete_veths(namespace: str, only: str | None = None) -> list[str]:
    """Deletes the veth pairs of a namespace, or the pair `only`. Returns the names of their host ends.

    Deleting either end deletes both immediately. When a namespace is deleted, the kernel deletes them some time later.
    """

    def inner() -> list[Link]:
        return [link for link in all_links() if link.kind == "veth" and only in (None, link.name)]

    def delete() -> None:
        for link in found:
            delete_link(link.index)

    found = netns.run_in(namespace, inner)
    hosts = [host_end(link) for link in found]
    netns.run_in(namespace, delete)
    return [host.name for host in hosts if host is not None]


InNamespaceChange = diff.SetSysctl | diff.AddAddress | diff.RemoveAddress | diff.PutRoute | diff.RemoveRoute
"""Changes that are applied inside the namespace. Several of them are applied in one visit."""


@dataclass(frozen=True, slots=True)
class ChangeApplier:
    """Applies changes to one namespace. Raises OSError, ProgramError, NamespaceMissingError, MissingSettingError."""

    desired: NamespaceState
    ownership: OwnershipRecord

    def apply(self, change: diff.Change) -> None:
        """Applies a change. An InNamespaceChange requires a thread inside the namespace, any other change a thread
        outside.
        """
        if isinstance(change, InNamespaceChange):
            self._apply_inside(change)
        else:
            self._apply_outside(change)

    def _apply_inside(self, change: InNamespaceChange) -> None:
        match change:
            case diff.SetSysctl(key, value):
                sysctl.write_desired(key, value, frozenset(device.name for device in self.desired.devices))
            case diff.AddAddress(device_name, address):
                # Only the shared link-local address (fe80::a9fe:a9fe) can be a duplicate. Neutron assigned the other
                # addresses.
                detect = address.lower().startswith("fe80")
                add_address(self._index_of(device_name), address, detect_duplicates=detect)
            case diff.RemoveAddress(device_name, address):
                delete_address(self._index_of(device_name), address)
            case diff.PutRoute(route):
                put_route(route, self._index_of(route.device))
            case diff.RemoveRoute(route):
                delete_route(route, self._index_of(route.device))

    def _apply_outside(self, change: diff.Change) -> None:
        match change:
            case diff.CreateNamespace(name, owner_uid):
                create_namespace(name, self.ownership, owner_uid)
            case diff.ReplaceTable(family, table, lines):
                replace_table(self.desired.name, family, table, lines)
            case diff.AddDevice(device):
                self._add_device(device)
            case diff.AdjustDevice(device, what):
                self._adjust_device(device, what)
            case diff.RemoveDevice(name):
                self._remove_device(name)

    def _index_of(self, name: str) -> int:
        """The index of a device. The calling thread must be in the namespace."""
        link = link_by_name(name)
        if link is None:
            raise OSError(errno.ENODEV, f"device {name} does not exist in {self.desired.name}")
        return link.index

    def _on_link(self, name: str, work: Callable[[int], None]) -> None:
        netns.run_in(self.desired.name, lambda: work(self._index_of(name)))

    def _add_device(self, device: Device) -> None:
        bridge = link_by_name(device.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"bridge {device.bridge} does not exist")
        stale = link_by_name(device.host_name)
        if stale is not None:  # left over from an earlier pair, or moved out of its namespace
            delete_link(stale.index)
        self.ownership.add("link", device.host_name)
        add_veth(
            host_name=device.host_name,
            mtu=device.mtu,
            inner_name=device.name,
            inner_mac=device.mac_address,
            inner_namespace=self.desired.name,
        )
        self._plug(device, bridge.index)

    def _plug(self, device: Device, bridge_index: int) -> None:
        sysctl.disable_ipv6(device.host_name)
        host = link_by_name(device.host_name)
        if host is None:
            raise OSError(errno.ENODEV, f"device {device.host_name} does not exist")
        set_link(host.index, master_index=bridge_index, mtu=device.mtu, up=device.up)
        if device.addresses is not None:  # a device without them is the NIC of an instance, which sets the NIC up
            self._on_link(device.name, lambda index: set_link(index, up=device.up))

    def _adjust_device(self, device: Device, what: tuple[str, ...]) -> None:
        mtu = device.mtu if "mtu" in what else None
        mac_address = device.mac_address if "mac_address" in what else None
        if mtu is not None or mac_address is not None:
            self._on_link(device.name, lambda index: set_link(index, mtu=mtu, mac_address=mac_address))
        bridge = link_by_name(device.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"bridge {device.bridge} does not exist")
        self._plug(device, bridge.index)

    def _remove_device(self, name: str) -> None:
        for host_name in delete_veths(self.desired.name, only=name):
            self.ownership.remove("link", host_name)
