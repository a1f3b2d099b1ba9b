"""Reads a namespace from the kernel as the same value that a wanted one is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from openimds.linux import netlink, netns
from openimds.linux.firewall import read_rules
from openimds.linux.netlink import Address, Link
from openimds.linux.nft_generation import counts_iptables, ruleset_generation
from openimds.linux.sysctl import read_wanted
from openimds.wiring.diff import Family
from openimds.wiring.state import Device, NamespaceState, Route, Rules

MTU_DIFFERS = 0
"""The two ends do not agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inside:
    """What can be seen from inside a namespace."""

    links: list[Link]
    addresses: list[Address]
    routes: set[Route]
    sysctls: Mapping[str, str]
    ruleset_generation: int | None


class ReadRules:
    """Rules of namespaces as they were read last: still true of a ruleset that nobody has changed since."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, Family], tuple[object, Rules]] = {}

    def rules(self, name: str, family: Family, ruleset: object) -> Rules:
        """`ruleset`: what tells it from any other of its time, as it was before this call; None: nobody knows."""
        stamp, rules = self._read.get((name, family), (None, Rules()))
        if stamp is None or stamp != ruleset:
            rules = read_rules(name, family)
            self._read[name, family] = (ruleset, rules)
        return rules

    def forget(self, name: str) -> None:
        self._read.pop((name, "ipv4"), None)
        self._read.pop((name, "ipv6"), None)


def observe(wanted: NamespaceState, read: ReadRules) -> NamespaceState | None:
    """The namespace `wanted.name` as it is; None: there is none.

    Of the sysctls those that are wanted are read; of the firewall a family of which anything is wanted.
    """
    identity = netns.identity(wanted.name)
    if identity is None:
        return None
    keep = frozenset(address for device in wanted.devices for address in device.addresses or ())
    try:
        inside = netns.in_namespace(wanted.name, lambda: _inside(wanted))
    except netns.NamespaceMissingError:
        return None
    veths = [link for link in inside.links if link.kind == "veth"]
    addresses = inside.addresses
    ruleset = (identity, inside.ruleset_generation) if inside.ruleset_generation is not None else None
    guests_own = {device.name: device for device in wanted.devices if device.addresses is None}
    return NamespaceState(
        name=wanted.name,
        devices=tuple(
            _guests_device(link, guests_own[link.name]) if link.name in guests_own else _device(link, addresses, keep)
            for link in veths
        ),
        routes=frozenset(inside.routes),
        sysctls=inside.sysctls,
        ipv4_rules=read.rules(wanted.name, "ipv4", ruleset) if wanted.ipv4_rules.tables else Rules(),
        ipv6_rules=read.rules(wanted.name, "ipv6", ruleset) if wanted.ipv6_rules.tables else Rules(),
    )


def _inside(wanted: NamespaceState) -> _Inside:
    links = netlink.all_links()
    names = {link.index: link.name for link in links}
    known = frozenset(names.values())
    has_rules = bool(wanted.ipv4_rules.tables or wanted.ipv6_rules.tables)
    return _Inside(
        links=links,
        addresses=netlink.addresses(),
        routes=netlink.routes(names) if wanted.routes is not None else set(),
        sysctls=read_wanted(wanted.sysctls, known | {device.name for device in wanted.devices}),
        ruleset_generation=ruleset_generation() if has_rules and counts_iptables() else None,
    )


def _device(link: Link, addresses: list[Address], keep: frozenset[str]) -> Device:
    host = _host_end(link)
    return Device(
        name=link.name,
        host_name=host.name if host else "",
        bridge=_bridge_of(host),
        mac_address=link.mac_address,
        mtu=link.mtu if host is None or host.mtu == link.mtu else MTU_DIFFERS,
        addresses=frozenset(
            address.interface
            for address in addresses
            if address.link_index == link.index and (address.interface in keep or not is_automatic(address, link))
        ),
        up=link.up and host is not None and host.up,
    )


def _guests_device(link: Link, wanted: Device) -> Device:
    """A NIC that the instance configures: inside, its MAC, MTU and state are the instance's business (port security
    looks at what it sends); the host's end is ours.
    """
    host = _host_end(link)
    return replace(
        wanted,
        host_name=host.name if host else "",
        bridge=_bridge_of(host),
        mtu=host.mtu if host else MTU_DIFFERS,
        up=host is not None and host.up,
    )


def _bridge_of(host: Link | None) -> str:
    bridge = netlink.link_at(host.master_index) if host and host.master_index else None
    return bridge.name if bridge else ""


def _host_end(link: Link) -> Link | None:
    """The other end, if it is in the root namespace; indexes may repeat, so it must also point back here."""
    if link.peer_index is None or not link.peer_elsewhere:
        return None
    host = netlink.link_at(link.peer_index)
    return host if host is not None and host.kind == "veth" and host.peer_index == link.index else None


def is_automatic(address: Address, link: Link) -> bool:
    """Made by the kernel: from an advertisement, or the link-local one from the MAC (RFC 4291, appendix A)."""
    if not address.permanent:
        return True
    return str(ip_interface(address.interface).ip) == link_local_of(link.mac_address)


def link_local_of(mac_address: str) -> str | None:
    """`fa:16:3e:00:00:01` → `fe80::f816:3eff:fe00:1`"""
    if not mac_address:
        return None
    parts = bytes.fromhex(mac_address.replace(":", ""))
    host = bytes([parts[0] ^ 0x02, *parts[1:3], 0xFF, 0xFE, *parts[3:6]])
    return str(ip_interface(b"\xfe\x80" + bytes(6) + host).ip)
