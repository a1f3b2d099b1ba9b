"""Reads a namespace from the kernel as the same value that a wanted one is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from openimds.linux import netlink, netns
from openimds.linux.known_rules import KnownRules, Ruleset, ruleset_here
from openimds.linux.netlink import Address, Link
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
    ruleset: Ruleset | None


def observe(wanted: NamespaceState, known: KnownRules) -> NamespaceState | None:
    """The namespace `wanted.name` as it is; None: there is none.

    Of the sysctls those that are wanted are read; of the firewall a family of which anything is wanted.
    """
    if not netns.exists(wanted.name):
        return None
    keep = frozenset(address for device in wanted.devices for address in device.addresses or ())
    try:
        inside = netns.in_namespace(wanted.name, lambda: _inside(wanted))
    except netns.NamespaceMissingError:
        return None
    veths = [link for link in inside.links if link.kind == "veth"]
    addresses = inside.addresses
    rules = known.rules(wanted.name, families_of(wanted), inside.ruleset) if families_of(wanted) else {}
    guests_own = {device.name: device for device in wanted.devices if device.addresses is None}
    return NamespaceState(
        name=wanted.name,
        devices=tuple(
            _guests_device(link, guests_own[link.name]) if link.name in guests_own else _device(link, addresses, keep)
            for link in veths
        ),
        routes=frozenset(inside.routes),
        sysctls=inside.sysctls,
        ipv4_rules=rules["ipv4"] if wanted.ipv4_rules.tables else Rules(),
        ipv6_rules=rules["ipv6"] if wanted.ipv6_rules.tables else Rules(),
    )


def families_of(wanted: NamespaceState) -> tuple[Family, ...]:
    """Those of which anything is wanted."""
    ipv4: tuple[Family, ...] = ("ipv4",) if wanted.ipv4_rules.tables else ()
    return (*ipv4, "ipv6") if wanted.ipv6_rules.tables else ipv4


def _inside(wanted: NamespaceState) -> _Inside:
    links = netlink.all_links()
    names = {link.index: link.name for link in links}
    known = frozenset(names.values())
    return _Inside(
        links=links,
        addresses=netlink.addresses(),
        routes=netlink.routes(names) if wanted.routes is not None else set(),
        sysctls=read_wanted(wanted.sysctls, known | {device.name for device in wanted.devices}),
        ruleset=ruleset_here() if families_of(wanted) else None,
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
