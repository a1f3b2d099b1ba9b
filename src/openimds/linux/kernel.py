"""Makes namespaces and bridges what they are wanted to be, and says what they are."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from openimds.linux import netlink, netns, sysctl
from openimds.linux.conntrack import ConntrackExemption
from openimds.linux.errors import ProgramError, WiringError
from openimds.linux.firewall import replace_table
from openimds.linux.ledger import Ledger
from openimds.linux.netlink import Link
from openimds.linux.observe import observe
from openimds.linux.programs import run
from openimds.wiring import diff
from openimds.wiring.state import Bridge, Device, NamespaceState

ROUNDS = 3
"""A change may undo another (the kernel drops routes with their device): look again, but not for ever."""
BRIDGE_PREFIX = "brq"
HOLDER_SECONDS = 5.0
IDS_OF_A_USER_NAMESPACE = 65536


class Kernel:
    """The host's kernel, through which all namespaces and bridges of this system are made and removed.

    `prefix` is the option `namespace_prefix`; it names the host's nftables table.
    """

    def __init__(self, ledger: Ledger, prefix: str = "") -> None:
        self._ledger = ledger
        self._exemption = ConntrackExemption(prefix)

    def namespaces(self) -> set[str]:
        """Those of this system that exist."""
        return self._ledger.names("netns") & netns.all_names()

    def actual(self, name: str, like: NamespaceState | None = None) -> NamespaceState | None:
        """What is there; `like` says which sysctls and firewall families to read."""
        return observe(like or NamespaceState(name=name))

    def apply(self, wanted: NamespaceState) -> tuple[str, ...]:
        """The changes made, in words. Raises WiringError with all that failed; what could be done is done."""
        done: list[str] = []
        failures: list[str] = []
        for _ in range(ROUNDS):
            ordered = diff.changes(wanted, observe(wanted))
            if not ordered:
                return tuple(done)
            failures = self._carry_out(wanted, ordered, done)
            if failures:
                break
        if not failures:
            failures = [f"{diff.in_words(change)} does not last" for change in diff.changes(wanted, observe(wanted))]
        if failures:
            raise WiringError(wanted.name, failures)
        return tuple(done)

    def remove_namespace(self, name: str) -> None:
        """With all that runs and all that is plugged in it. Idempotent. Raises WiringError."""
        if netns.exists(name):
            netns.kill_processes_in(name)
            for host_name in _delete_veths(name):
                self._ledger.forget("link", host_name)
        if name in netns.all_names():
            try:
                run(["ip", "netns", "delete", name])
            except ProgramError as error:
                if name in netns.all_names():
                    raise WiringError(name, [str(error)]) from error
        self._ledger.forget("netns", name)

    def ensure_bridge(self, bridge: Bridge) -> tuple[str, ...]:
        """The changes made, in words. Raises WiringError."""
        try:
            return _ensure_bridge(bridge, self._ledger, self._exemption)
        except (OSError, ProgramError) as error:
            raise WiringError(bridge.name, [str(error)]) from error

    def remove_bridge(self, name: str) -> bool:
        """Whether it is gone: one that still has ports stays. Idempotent."""
        link = netlink.link_named(name)
        if link is not None:
            if any(other.master_index == link.index for other in netlink.all_links()):
                return False
            netlink.delete_link(link.index)
        self._exemption.remove(name)
        self._ledger.forget("link", name)
        return True

    def bridges(self) -> set[str]:
        """Those of this system that exist."""
        noted = {name for name in self._ledger.names("link") if name.startswith(BRIDGE_PREFIX)}
        return noted & {link.name for link in netlink.all_links() if link.kind == "bridge"}

    def neighbours(self, namespace: str, device: str) -> Mapping[str, str]:
        """IP address → MAC address that the namespace has heard of on this device; empty if there is no such."""

        def read() -> dict[str, str]:
            link = netlink.link_named(device)
            return netlink.neighbours(link.index) if link else {}

        try:
            return netns.in_namespace(namespace, read)
        except netns.NamespaceMissingError:
            return {}

    def links(self, namespace: str | None = None) -> dict[str, Link]:
        """By name; None: the root namespace. Raises NamespaceMissingError."""
        found = netlink.all_links() if namespace is None else netns.in_namespace(namespace, netlink.all_links)
        return {link.name: link for link in found}

    def duplicate_addresses(self, namespace: str) -> frozenset[str]:
        """IPv6 addresses there that somebody else on the segment already has (`fe80::a9fe:a9fe/64`)."""
        found = netns.in_namespace(namespace, netlink.addresses)
        return frozenset(address.interface for address in found if address.duplicate)

    def plug(self, host_name: str, bridge: str) -> bool:
        """Put another program's tap (a hypervisor's) on the bridge. False: there is no such device.

        Raises WiringError.
        """
        try:
            link, master = netlink.link_named(host_name), netlink.link_named(bridge)
            if link is None or master is None:
                return False
            sysctl.silence_ipv6(host_name)
            if link.master_index != master.index or not link.up:
                netlink.set_link(link.index, master=master.index, state="up")
        except OSError as error:
            raise WiringError(host_name, [f"plug into {bridge}: {error}"]) from error
        return True

    def _carry_out(self, wanted: NamespaceState, ordered: tuple[diff.Change, ...], done: list[str]) -> list[str]:
        """Goes on after a failure; what failed, in words."""
        failures = []
        executor = _Executor(wanted, self._ledger)
        for change in ordered:
            try:
                executor.do(change)
            except (OSError, ProgramError, WiringError, netns.NamespaceMissingError) as error:
                failures.append(f"{diff.in_words(change)}: {_reason(error)}")
                if isinstance(change, diff.CreateNamespace):
                    break
            else:
                done.append(diff.in_words(change))
        return failures


@dataclass(frozen=True, slots=True)
class _Executor:
    """One change at a time, on one namespace."""

    wanted: NamespaceState
    ledger: Ledger

    def do(self, change: diff.Change) -> None:  # noqa: C901 - a table: one case a kind of change
        match change:
            case diff.CreateNamespace(name, owner_uid):
                create_namespace(name, self.ledger, owner_uid)
            case diff.SetSysctl(key, value):
                self._inside(lambda: sysctl.write_sysctl(key, value, frozenset(d.name for d in self.wanted.devices)))
            case diff.ReplaceTable(family, table, lines):
                replace_table(self.wanted.name, family, table, lines)
            case diff.AddDevice(device):
                self._add_device(device)
            case diff.AdjustDevice(device, what):
                self._adjust_device(device, what)
            case diff.RemoveDevice(name):
                self._remove_device(name)
            case diff.AddAddress(device_name, address):
                # Only a shared link-local address (fe80::a9fe:a9fe) may be somebody else's: Neutron gave us the others.
                detect = address.lower().startswith("fe80")
                self._on_link(device_name, lambda i: netlink.add_address(i, address, detect_duplicates=detect))
            case diff.RemoveAddress(device_name, address):
                self._on_link(device_name, lambda index: netlink.delete_address(index, address))
            case diff.PutRoute(route):
                self._on_link(route.device, lambda index: netlink.put_route(route, index))
            case diff.RemoveRoute(route):
                self._on_link(route.device, lambda index: netlink.delete_route(route, index))

    def _inside(self, work: Callable[[], None]) -> None:
        netns.in_namespace(self.wanted.name, work)

    def _on_link(self, name: str, work: Callable[[int], None]) -> None:
        def body() -> None:
            link = netlink.link_named(name)
            if link is None:
                raise OSError(errno.ENODEV, f"there is no device {name} in {self.wanted.name}")
            work(link.index)

        self._inside(body)

    def _add_device(self, device: Device) -> None:
        bridge = netlink.link_named(device.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"there is no bridge {device.bridge}")
        stale = netlink.link_named(device.host_name)
        if stale is not None:  # half of a pair from before, or one that was moved elsewhere
            netlink.delete_link(stale.index)
        self.ledger.note("link", device.host_name)
        netlink.add_veth(
            host_name=device.host_name,
            mtu=device.mtu,
            inner_name=device.name,
            inner_mac=device.mac_address,
            inner_namespace=self.wanted.name,
        )
        self._plug(device, bridge.index)

    def _plug(self, device: Device, bridge_index: int) -> None:
        sysctl.silence_ipv6(device.host_name)
        host = netlink.link_named(device.host_name)
        if host is None:
            raise OSError(errno.ENODEV, f"there is no device {device.host_name}")
        state = "up" if device.up else "down"
        netlink.set_link(host.index, master=bridge_index, mtu=device.mtu, state=state)
        if device.addresses is not None:  # else the instance switches its NIC on by itself
            self._on_link(device.name, lambda index: netlink.set_link(index, state=state))

    def _adjust_device(self, device: Device, what: tuple[str, ...]) -> None:
        inner: dict[str, str | int] = {"mtu": device.mtu} if "mtu" in what else {}
        if "mac_address" in what:
            inner["address"] = device.mac_address
        if inner:
            self._on_link(device.name, lambda index: netlink.set_link(index, **inner))
        bridge = netlink.link_named(device.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"there is no bridge {device.bridge}")
        self._plug(device, bridge.index)

    def _remove_device(self, name: str) -> None:
        for host_name in _delete_veths(self.wanted.name, only=name):
            self.ledger.forget("link", host_name)


def create_namespace(name: str, ledger: Ledger, owner_uid: int | None = None) -> None:
    """With its loopback up; `owner_uid` as in NamespaceState. A mount point that a crash left behind is cleared first. Raises ProgramError, OSError."""
    ledger.note("netns", name)
    if name in netns.all_names() and not netns.exists(name):
        run(["ip", "netns", "delete", name])
    if owner_uid is None:
        run(["ip", "netns", "add", name])
    else:
        _create_owned(name, owner_uid)

    def prepare() -> None:
        loopback = netlink.link_named("lo")
        if loopback is not None:
            netlink.set_link(loopback.index, state="up")
        # Without it the kernel takes all other addresses of a subnet away with the first one.
        sysctl.write_sysctl("net.ipv4.conf.all.promote_secondaries", "1")

    netns.in_namespace(name, prepare)


def _create_owned(name: str, owner_uid: int) -> None:
    """In a new user namespace, where no further ones can be made: an instance's programs need none."""
    own = os.readlink("/proc/self/ns/net")
    holder = subprocess.Popen(["unshare", "--user", "--net", "--", "sleep", "60"])
    try:
        deadline = time.monotonic() + HOLDER_SECONDS
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            if holder.poll() is not None or time.monotonic() > deadline:
                raise ProgramError("unshare", "cannot make a user namespace: is user.max_user_namespaces 0?")
            time.sleep(0.001)
        for which in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{which}").write_text(f"0 {owner_uid} {IDS_OF_A_USER_NAMESPACE}")
        limit = "echo 0 > /proc/sys/user/max_user_namespaces"
        run(["nsenter", f"--user=/proc/{holder.pid}/ns/user", "--", "sh", "-c", limit])
        run(["ip", "netns", "attach", name, str(holder.pid)])
    finally:
        holder.kill()
        holder.wait()


def _ensure_bridge(bridge: Bridge, ledger: Ledger, exemption: ConntrackExemption) -> tuple[str, ...]:
    done = []
    link = netlink.link_named(bridge.name)
    if link is None:
        ledger.note("link", bridge.name)
        _add_bridge_once(bridge)
        link = netlink.link_named(bridge.name)
        done.append(f"create bridge {bridge.name}")
    if link is None:
        raise OSError(errno.ENODEV, f"bridge {bridge.name} went away while it was made")
    if exemption.add(bridge.name):
        done.append(f"exempt bridge {bridge.name} from connection tracking")
    sysctl.silence_ipv6(bridge.name)
    if link.mtu != bridge.mtu or not link.up:
        netlink.set_link(link.index, mtu=bridge.mtu, state="up")
        done.append(f"set bridge {bridge.name} up, mtu {bridge.mtu}")
    return tuple(done)


def _add_bridge_once(bridge: Bridge) -> None:
    try:
        netlink.add_bridge(bridge.name, bridge.mtu)
    except OSError as error:
        if error.errno != errno.EEXIST:  # another agent of this host was faster
            raise


def _delete_veths(namespace: str, only: str | None = None) -> list[str]:
    """The host's names of the pairs that are gone. Deleting either end takes both, at once; left to the namespace's
    own end the kernel would do it some time later.
    """

    def inner() -> list[Link]:
        found = [link for link in netlink.all_links() if link.kind == "veth" and only in (None, link.name)]
        for link in found:
            netlink.delete_link(link.index)
        return found

    hosts = {link.index: link.name for link in netlink.all_links() if link.kind == "veth"}
    return [hosts[link.peer_index] for link in netns.in_namespace(namespace, inner) if link.peer_index in hosts]


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def wait_for_link(name: str, *, timeout_seconds: float) -> bool:
    """Whether a device of the root namespace came in time."""
    deadline = time.monotonic() + timeout_seconds
    while netlink.link_named(name) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
