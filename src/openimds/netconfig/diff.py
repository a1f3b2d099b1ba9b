"""The difference between a wanted namespace and the one that is there, as an ordered list of changes.

Order: first what protects (sysctls, firewall), then what is added, then what is taken away: a namespace that is being
changed never has less than both states have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from openimds.netconfig.namespace_state import Device, NamespaceState, Route, Rules

Family = Literal["ipv4", "ipv6"]


@dataclass(frozen=True, slots=True)
class CreateNamespace:
    name: str
    owner_uid: int | None = None


@dataclass(frozen=True, slots=True)
class SetSysctl:
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class ReplaceTable:
    family: Family
    table: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddDevice:
    device: Device


@dataclass(frozen=True, slots=True)
class AdjustDevice:
    """It is there, with the right two names, but differs in `what` (`mac_address`, `mtu`, `bridge`, `up`)."""

    device: Device
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoveDevice:
    name: str


@dataclass(frozen=True, slots=True)
class AddAddress:
    device: str
    address: str


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    device: str
    address: str


@dataclass(frozen=True, slots=True)
class PutRoute:
    """Add, or take the place of the one to the same destination."""

    route: Route


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    route: Route


Change = (
    CreateNamespace
    | SetSysctl
    | ReplaceTable
    | AddDevice
    | AdjustDevice
    | RemoveDevice
    | AddAddress
    | RemoveAddress
    | PutRoute
    | RemoveRoute
)


def changes(wanted: NamespaceState, actual: NamespaceState | None) -> tuple[Change, ...]:
    """What to do, in this order, to come from `actual` (None: not there) to `wanted`. Equal: nothing."""
    found = actual or NamespaceState(name=wanted.name)
    device_names = {device.name for device in wanted.devices}
    early, late = _sysctl_changes(wanted, found, device_names)
    ordered: list[Change] = [] if actual is not None else [CreateNamespace(wanted.name, wanted.owner_uid)]
    ordered += early
    ordered += _rule_changes("ipv4", wanted.ipv4_rules, found.ipv4_rules)
    ordered += _rule_changes("ipv6", wanted.ipv6_rules, found.ipv6_rules)
    ordered += _device_changes(wanted.devices, found.devices)
    ordered += late
    ordered += _address_changes(wanted.devices, found.devices)
    ordered += _route_changes(wanted, found)
    ordered += [RemoveDevice(device.name) for device in found.devices if device.name not in device_names]
    return tuple(ordered)


def _sysctl_changes(
    wanted: NamespaceState, found: NamespaceState, device_names: set[str]
) -> tuple[list[Change], list[Change]]:
    """Those of a device can only be set once it is there (`net.ipv6.conf.qr-1.accept_ra`); the others come first."""
    differing = [
        SetSysctl(key, value) for key, value in sorted(wanted.sysctls.items()) if found.sysctls.get(key) != value
    ]
    late = [change for change in differing if any(f".{name}." in change.key for name in device_names)]
    return [change for change in differing if change not in late], list(late)


def canonical_rules(lines: Iterable[str]) -> tuple[str, ...]:
    """Without what iptables-save adds by itself (counters, comments, built-in chains that accept), and grouped by
    chain as it prints them: only the order within a chain means anything.
    """
    chains, rules = [], []
    for line in lines:
        if line.startswith(":"):
            name, policy = line[1:].split()[:2]
            if policy != "ACCEPT":
                chains.append(f":{name} {policy}")
        elif line.startswith("-"):
            rules.append(line.strip())
    return (*sorted(chains), *sorted(rules, key=lambda rule: rule.split()[1]))


def _rule_changes(family: Family, wanted: Rules, found: Rules) -> Iterator[Change]:
    """With no table wanted at all the family's firewall is not ours to manage; else every table is."""
    if not wanted.tables:
        return
    for table in sorted({*wanted.tables, *found.tables}):
        lines = tuple(wanted.tables.get(table, ()))
        if canonical_rules(lines) != canonical_rules(found.tables.get(table, ())):
            yield ReplaceTable(family, table, lines)


def _device_changes(wanted: Iterable[Device], found: Iterable[Device]) -> Iterator[Change]:
    there = {device.name: device for device in found}
    for device in wanted:
        actual = there.get(device.name)
        if actual is None:
            yield AddDevice(device)
        elif actual.host_name != device.host_name:
            yield RemoveDevice(device.name)
            yield AddDevice(device)
        else:
            what = tuple(
                name
                for name in ("mac_address", "mtu", "bridge", "up")
                if getattr(actual, name) != getattr(device, name)
            )
            if what:
                yield AdjustDevice(device, what)


def _address_changes(wanted: Iterable[Device], found: Iterable[Device]) -> Iterator[Change]:
    there = {device.name: (device.host_name, device.addresses or frozenset()) for device in found}
    for device in wanted:
        if device.addresses is None:
            continue
        host_name, addresses = there.get(device.name, ("", frozenset()))
        if host_name != device.host_name:  # the device is made anew, and its addresses went with the old one
            addresses = frozenset()
        yield from (AddAddress(device.name, address) for address in sorted(device.addresses - addresses))
        yield from (RemoveAddress(device.name, address) for address in sorted(addresses - device.addresses))


def _route_changes(wanted: NamespaceState, found: NamespaceState) -> Iterator[Change]:
    if wanted.routes is None:
        return
    there = found.routes or frozenset()
    yield from (PutRoute(route) for route in _on_link_first(wanted.routes - there))
    yield from (RemoveRoute(route) for route in _on_link_first(there - wanted.routes))


def _on_link_first(routes: frozenset[Route]) -> list[Route]:
    """Routes without a gateway before those whose gateway may only be reached through them."""
    return sorted(routes, key=lambda route: (route.gateway is not None, route.destination, route.device))


def describe(change: Change) -> str:  # noqa: C901 - a table: one case a kind of change
    """For logs and errors: `add address 192.168.40.2/24 on tap01e7ee7b-98`."""
    match change:
        case CreateNamespace(name, _):
            return f"create namespace {name}"
        case SetSysctl(key, value):
            return f"set {key} = {value}"
        case ReplaceTable(family, table, lines):
            return f"replace {family} table {table} ({sum(line.startswith('-A') for line in lines)} rules)"
        case AddDevice(device):
            return f"add device {device.name} (on the host {device.host_name} on {device.bridge})"
        case AdjustDevice(device, what):
            return f"set {', '.join(what)} of device {device.name}"
        case RemoveDevice(name):
            return f"remove device {name}"
        case AddAddress(device, address):
            return f"add address {address} on {device}"
        case RemoveAddress(device, address):
            return f"remove address {address} from {device}"
        case PutRoute(route):
            return f"set route {_route_words(route)}"
        case RemoveRoute(route):
            return f"remove route {_route_words(route)}"


def _route_words(route: Route) -> str:
    via = f" via {route.gateway}" if route.gateway else ""
    return f"{route.destination}{via} dev {route.device}"
