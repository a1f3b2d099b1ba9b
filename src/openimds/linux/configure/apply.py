"""Carries out the changes that a namespace needs, one at a time."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from openimds.linux import sysctl
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.firewall.iptables import replace_table
from openimds.linux.netlink.addresses import add_address, delete_address
from openimds.linux.netlink.links import add_veth, delete_link, link_named, set_link
from openimds.linux.netlink.routes import delete_route, put_route
from openimds.linux.netns import netns
from openimds.linux.netns.lifecycle import create_namespace, delete_veths
from openimds.netconfig import diff
from openimds.netconfig.namespace_state import Device, NamespaceState

Inside = diff.SetSysctl | diff.AddAddress | diff.RemoveAddress | diff.PutRoute | diff.RemoveRoute
"""Changes that are made in the namespace; several can be made in one visit."""


@dataclass(frozen=True, slots=True)
class ChangeApplier:
    """On one namespace. Raises OSError, ProgramError, NamespaceMissingError, MissingSettingError."""

    wanted: NamespaceState
    ledger: OwnershipRecord

    def do(self, change: diff.Change) -> None:
        """An `Inside` change by a thread that has entered the namespace, any other by one that has not."""
        if isinstance(change, Inside):
            self._do_inside(change)
        else:
            self._do_outside(change)

    def _do_inside(self, change: Inside) -> None:
        match change:
            case diff.SetSysctl(key, value):
                sysctl.write_wanted(key, value, frozenset(device.name for device in self.wanted.devices))
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
        link = link_named(name)
        if link is None:
            raise OSError(errno.ENODEV, f"there is no device {name} in {self.wanted.name}")
        return link.index

    def _on_link(self, name: str, work: Callable[[int], None]) -> None:
        netns.run_in(self.wanted.name, lambda: work(self._index_of(name)))

    def _add_device(self, device: Device) -> None:
        bridge = link_named(device.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"there is no bridge {device.bridge}")
        stale = link_named(device.host_name)
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
        sysctl.silence_ipv6(device.host_name)
        host = link_named(device.host_name)
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
        bridge = link_named(device.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"there is no bridge {device.bridge}")
        self._plug(device, bridge.index)

    def _remove_device(self, name: str) -> None:
        for host_name in delete_veths(self.wanted.name, only=name):
            self.ledger.forget("link", host_name)
