"""Reads a namespace from the kernel as the same value that a wanted one is.

Namespaces made, and emptied of their devices.

Carries out the changes that a namespace needs, one at a time.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from pathlib import Path

from openimds.linux import sysctl
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ProgramError
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
"""The two ends do not agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observation:
    """What was read. Equal: it means the same, but for what is wanted."""

    links: tuple[Link, ...]
    addresses: tuple[Address, ...]
    routes: frozenset[Route]
    settings: Mapping[str, str]
    hosts: tuple[_HostEnd, ...]
    rules: Mapping[Family, Rules]


@dataclass(frozen=True, slots=True)
class _HostEnd:
    """The host's end of a pair, and the name of the bridge that it is plugged into."""

    link: Link | None
    bridge: str


class StateReader:
    """Looks at namespaces; one that is as it was, for whom the same is wanted, is the same object. For one thread."""

    def __init__(self, handles: NamespaceHandles, known_rules: RulesetCache) -> None:
        self._handles = handles
        self._known_rules = known_rules
        self._last: dict[str, tuple[NamespaceState, _Observation, NamespaceState]] = {}
        """By name: what was wanted, what was seen, and what it was."""

    def observe(self, wanted: NamespaceState) -> NamespaceState | None:
        """The namespace `wanted.name` as it is; None: there is none.

        Of the sysctls those that are wanted are read; of the firewall a family of which anything is wanted.
        """
        try:
            seen = self._look(wanted)
        except netns.NamespaceMissingError:
            self.forget(wanted.name)
            return None
        last = self._last.get(wanted.name)
        if last is not None and last[0] == wanted and last[1] == seen:
            return last[2]
        state = _namespace_state(wanted, seen)
        self._last[wanted.name] = (wanted, seen, state)
        return state

    def forget(self, name: str) -> None:
        self._last.pop(name, None)

    def _look(self, wanted: NamespaceState) -> _Observation:
        families = managed_families(wanted)
        with self._handles.open(wanted.name) as handle:
            ruleset = netns.run_in(wanted.name, ruleset_here) if families else None
            links = handle.links()
            names = frozenset(link.name for link in links) | {device.name for device in wanted.devices}
            return _Observation(
                links=links,
                addresses=handle.addresses(),
                routes=handle.routes(links) if wanted.routes is not None else frozenset(),
                settings=handle.sysctls(wanted.sysctls, names),
                hosts=tuple(_read_host_end(link) for link in links if link.kind == "veth"),
                rules=self._known_rules.rules(wanted.name, families, ruleset) if families else {},
            )


def _namespace_state(wanted: NamespaceState, seen: _Observation) -> NamespaceState:
    keep = frozenset(address for device in wanted.devices for address in device.addresses or ())
    guests_own = {device.name: device for device in wanted.devices if device.addresses is None}
    veths = [link for link in seen.links if link.kind == "veth"]
    return NamespaceState(
        name=wanted.name,
        devices=tuple(
            _unmanaged_device(guests_own[link.name], host)
            if link.name in guests_own
            else _device(link, host, [address for address in seen.addresses if address.link_index == link.index], keep)
            for link, host in zip(veths, seen.hosts, strict=True)
        ),
        routes=seen.routes,
        sysctls=seen.settings,
        ipv4_rules=seen.rules["ipv4"] if wanted.ipv4_rules.tables else Rules(),
        ipv6_rules=seen.rules["ipv6"] if wanted.ipv6_rules.tables else Rules(),
    )


def managed_families(wanted: NamespaceState) -> tuple[Family, ...]:
    """Those of which anything is wanted."""
    ipv4: tuple[Family, ...] = ("ipv4",) if wanted.ipv4_rules.tables else ()
    return (*ipv4, "ipv6") if wanted.ipv6_rules.tables else ipv4


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


def _unmanaged_device(wanted: Device, host: _HostEnd) -> Device:
    """A NIC that the instance configures: inside, its MAC, MTU and state are the instance's business (port security
    looks at what it sends); the host's end is ours.
    """
    other = host.link
    return replace(
        wanted,
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
    """Made by the kernel: from an advertisement, or the link-local one from the MAC (RFC 4291, appendix A)."""
    if not address.permanent:
        return True
    return bool(link.mac_address) and str(ip_interface(address.interface).ip) == link_local(link.mac_address)


HOLDER_TIMEOUT_SECONDS = 5.0
USER_NAMESPACE_IDS = 65536


def create_namespace(name: str, ledger: OwnershipRecord, owner_uid: int | None = None) -> None:
    """With its loopback up; `owner_uid` as in NamespaceState. Raises ProgramError, OSError.

    A mount point that a crash left behind is cleared first.
    """
    ledger.note("netns", name)
    if name in netns.list_names() and not netns.exists(name):
        netns.delete(name)
    if owner_uid is None:
        if not netns.create(name):
            run(["ip", "netns", "add", name])
    else:
        _create_in_user_namespace(name, owner_uid)

    def prepare() -> None:
        loopback = link_by_name("lo")
        if loopback is not None:
            set_link(loopback.index, up=True)
        # Without it the kernel takes all other addresses of a subnet away with the first one.
        sysctl.write_sysctl("net.ipv4.conf.all.promote_secondaries", "1")

    netns.run_in(name, prepare)


def _create_in_user_namespace(name: str, owner_uid: int) -> None:
    """In a new user namespace, where no further ones can be made: an instance's programs need none."""
    own = os.readlink("/proc/self/ns/net")
    holder = subprocess.Popen(["unshare", "--user", "--net", "--", "sleep", "60"])
    try:
        deadline = time.monotonic() + HOLDER_TIMEOUT_SECONDS
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            if holder.poll() is not None or time.monotonic() > deadline:
                raise ProgramError("unshare", "cannot make a user namespace: is user.max_user_namespaces 0?")
            time.sleep(0.001)
        for which in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{which}").write_text(f"0 {owner_uid} {USER_NAMESPACE_IDS}")
        limit = "echo 0 > /proc/sys/user/max_user_namespaces"
        run(["nsenter", f"--user=/proc/{holder.pid}/ns/user", "--", "sh", "-c", limit])
        run(["ip", "netns", "attach", name, str(holder.pid)])
    finally:
        holder.kill()
        holder.wait()


def delete_veths(namespace: str, only: str | None = None) -> list[str]:
    """The host's names of the pairs that are gone. Deleting either end takes both, at once; left to the namespace's
    own end the kernel would do it some time later.
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
"""Changes that are made in the namespace; several can be made in one visit."""


@dataclass(frozen=True, slots=True)
class ChangeApplier:
    """On one namespace. Raises OSError, ProgramError, NamespaceMissingError, MissingSettingError."""

    wanted: NamespaceState
    ledger: OwnershipRecord

    def do(self, change: diff.Change) -> None:
        """An `Inside` change by a thread that has entered the namespace, any other by one that has not."""
        if isinstance(change, InNamespaceChange):
            self._do_inside(change)
        else:
            self._do_outside(change)

    def _do_inside(self, change: InNamespaceChange) -> None:
        match change:
            case diff.SetSysctl(key, value):
                sysctl.write_desired(key, value, frozenset(device.name for device in self.wanted.devices))
            case diff.AddAddress(device_name, address):
                # Only a shared link-local address (fe80::a9fe:a9fe) may be somebody else's: Neutron gave us the others.
                detect = address.lower().startswith("fe80")
                add_address(self._index_of(device_name), address, detect_duplicates=detect)
            case diff.RemoveAddress(device_name, address):
                delete_address(self._index_of(device_name), address)
            case diff.PutRoute(route):
                put_route(route, self._index_of(route.device))
            case diff.RemoveRoute(route):
                delete_route(route, self._index_of(route.device))

    def _do_outside(self, change: diff.Change) -> None:
        match change:
            case diff.CreateNamespace(name, owner_uid):
                create_namespace(name, self.ledger, owner_uid)
            case diff.ReplaceTable(family, table, lines):
                replace_table(self.wanted.name, family, table, lines)
            case diff.AddDevice(device):
                self._add_device(device)
            case diff.AdjustDevice(device, what):
                self._adjust_device(device, what)
            case diff.RemoveDevice(name):
                self._remove_device(name)

    def _index_of(self, name: str) -> int:
        """By a thread that has entered the namespace."""
        link = link_by_name(name)
        if link is None:
            raise OSError(errno.ENODEV, f"there is no device {name} in {self.wanted.name}")
        return link.index

    def _on_link(self, name: str, work: Callable[[int], None]) -> None:
        netns.run_in(self.wanted.name, lambda: work(self._index_of(name)))

    def _add_device(self, device: Device) -> None:
        bridge = link_by_name(device.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"there is no bridge {device.bridge}")
        stale = link_by_name(device.host_name)
        if stale is not None:  # half of a pair from before, or one that was moved elsewhere
            delete_link(stale.index)
        self.ledger.note("link", device.host_name)
        add_veth(
            host_name=device.host_name,
            mtu=device.mtu,
            inner_name=device.name,
            inner_mac=device.mac_address,
            inner_namespace=self.wanted.name,
        )
        self._plug(device, bridge.index)

    def _plug(self, device: Device, bridge_index: int) -> None:
        sysctl.disable_ipv6(device.host_name)
        host = link_by_name(device.host_name)
        if host is None:
            raise OSError(errno.ENODEV, f"there is no device {device.host_name}")
        set_link(host.index, master_index=bridge_index, mtu=device.mtu, up=device.up)
        if device.addresses is not None:  # else the instance switches its NIC on by itself
            self._on_link(device.name, lambda index: set_link(index, up=device.up))

    def _adjust_device(self, device: Device, what: tuple[str, ...]) -> None:
        mtu = device.mtu if "mtu" in what else None
        mac_address = device.mac_address if "mac_address" in what else None
        if mtu is not None or mac_address is not None:
            self._on_link(device.name, lambda index: set_link(index, mtu=mtu, mac_address=mac_address))
        bridge = link_by_name(device.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"there is no bridge {device.bridge}")
        self._plug(device, bridge.index)

    def _remove_device(self, name: str) -> None:
        for host_name in delete_veths(self.wanted.name, only=name):
            self.ledger.forget("link", host_name)
