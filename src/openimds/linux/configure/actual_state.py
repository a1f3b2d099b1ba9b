"""Reads a namespace from the kernel as the same value that a wanted one is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from openimds.linux.firewall.ruleset_cache import RulesetCache, ruleset_here
from openimds.linux.netlink.addresses import Address
from openimds.linux.netlink.links import Link, host_end, link_at
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandles
from openimds.netconfig.addresses import link_local
from openimds.netconfig.diff import Family
from openimds.netconfig.namespace_state import Device, NamespaceState, Route, Rules

MTU_DIFFERS = 0
"""The two ends do not agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What was read. Equal: it means the same, but for what is wanted."""

    links: tuple[Link, ...]
    addresses: tuple[Address, ...]
    routes: frozenset[Route]
    settings: Mapping[str, str]
    hosts: tuple[_Host, ...]
    rules: Mapping[Family, Rules]


@dataclass(frozen=True, slots=True)
class _Host:
    """The host's end of a pair, and the name of the bridge that it is plugged into."""

    link: Link | None
    bridge: str


class StateReader:
    """Looks at namespaces; one that is as it was, for whom the same is wanted, is the same object. For one thread."""

    def __init__(self, windows: NamespaceHandles, known_rules: RulesetCache) -> None:
        self._windows = windows
        self._known_rules = known_rules
        self._last: dict[str, tuple[NamespaceState, _Seen, NamespaceState]] = {}
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
        state = _state(wanted, seen)
        self._last[wanted.name] = (wanted, seen, state)
        return state

    def forget(self, name: str) -> None:
        self._last.pop(name, None)

    def _look(self, wanted: NamespaceState) -> _Seen:
        families = families_of(wanted)
        with self._windows.at(wanted.name) as window:
            ruleset = netns.run_in(wanted.name, ruleset_here) if families else None
            links = window.links()
            names = frozenset(link.name for link in links) | {device.name for device in wanted.devices}
            return _Seen(
                links=links,
                addresses=window.addresses(),
                routes=window.routes(links) if wanted.routes is not None else frozenset(),
                settings=window.settings(wanted.sysctls, names),
                hosts=tuple(_host_end(link) for link in links if link.kind == "veth"),
                rules=self._known_rules.rules(wanted.name, families, ruleset) if families else {},
            )


def _state(wanted: NamespaceState, seen: _Seen) -> NamespaceState:
    keep = frozenset(address for device in wanted.devices for address in device.addresses or ())
    guests_own = {device.name: device for device in wanted.devices if device.addresses is None}
    veths = [link for link in seen.links if link.kind == "veth"]
    return NamespaceState(
        name=wanted.name,
        devices=tuple(
            _guests_device(guests_own[link.name], host)
            if link.name in guests_own
            else _device(link, host, [address for address in seen.addresses if address.link_index == link.index], keep)
            for link, host in zip(veths, seen.hosts, strict=True)
        ),
        routes=seen.routes,
        sysctls=seen.settings,
        ipv4_rules=seen.rules["ipv4"] if wanted.ipv4_rules.tables else Rules(),
        ipv6_rules=seen.rules["ipv6"] if wanted.ipv6_rules.tables else Rules(),
    )


def families_of(wanted: NamespaceState) -> tuple[Family, ...]:
    """Those of which anything is wanted."""
    ipv4: tuple[Family, ...] = ("ipv4",) if wanted.ipv4_rules.tables else ()
    return (*ipv4, "ipv6") if wanted.ipv6_rules.tables else ipv4


def _device(link: Link, host: _Host, addresses: Iterable[Address], keep: frozenset[str]) -> Device:
    other = host.link
    return Device(
        name=link.name,
        host_name=other.name if other else "",
        bridge=host.bridge,
        mac_address=link.mac_address,
        mtu=link.mtu if other is None or other.mtu == link.mtu else MTU_DIFFERS,
        addresses=frozenset(
            address.interface for address in addresses if address.interface in keep or not is_automatic(address, link)
        ),
        up=link.up and other is not None and other.up,
    )


def _guests_device(wanted: Device, host: _Host) -> Device:
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


def _host_end(link: Link) -> _Host:
    host = host_end(link)
    if host is None:
        return _Host(None, "")
    bridge = link_at(host.master_index) if host.master_index else None
    return _Host(host, bridge.name if bridge else "")


def is_automatic(address: Address, link: Link) -> bool:
    """Made by the kernel: from an advertisement, or the link-local one from the MAC (RFC 4291, appendix A)."""
    if not address.permanent:
        return True
    return bool(link.mac_address) and str(ip_interface(address.interface).ip) == link_local(link.mac_address)
