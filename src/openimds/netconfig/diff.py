"""The ordered changes from the actual to the desired state of a namespace.

Protection comes first (sysctls, firewall), then additions, then removals. So at each moment the namespace has everything
that both states have in common.
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
    """Sets attributes of an existing device: `mac_address`, `mtu`, `bridge` or `up`."""

    device: Device
    attributes: tuple[str, ...]


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
    """Adds a route, or replaces the route to the same destination."""

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


def changes(desired: NamespaceState, actual: NamespaceState | None) -> tuple[Change, ...]:
    """Returns the changes in their order. `actual` is None if the namespace does not exist."""
    ordered: list[Change] = [] if actual is not None else [CreateNamespace(desired.name, desired.owner_uid)]
    actual = actual or NamespaceState(name=desired.name)
    device_names = {device.name for device in desired.devices}
    early, late = _sysctl_changes(desired, actual, device_names)
    ordered += early
    ordered += _rule_changes("ipv4", desired.ipv4_rules, actual.ipv4_rules)
    ordered += _rule_changes("ipv6", desired.ipv6_rules, actual.ipv6_rules)
    ordered += _device_changes(desired.devices, actual.devices)
    ordered += late
    ordered += _address_changes(desired.devices, actual.devices)
    ordered += _route_changes(desired, actual)
    ordered += [RemoveDevice(device.name) for device in actual.devices if device.name not in device_names]
    return tuple(ordered)


def _sysctl_changes(
    desired: NamespaceState, actual: NamespaceState, device_names: set[str]
) -> tuple[list[Change], list[Change]]:
    """The sysctls to set before the devices are added, and after it (`net.ipv6.conf.qr-1.accept_ra` needs the device)."""
    differing = [
        SetSysctl(key, value) for key, value in sorted(desired.sysctls.items()) if actual.sysctls.get(key) != value
    ]
    late = [change for change in differing if any(f".{name}." in change.key for name in device_names)]
    return [change for change in differing if change not in late], list(late)


def canonical_rules(lines: Iterable[str]) -> tuple[str, ...]:
    """The chains and rules without counters, comments and built-in chains with policy ACCEPT.

    Rules are sorted by chain, as in the output of iptables-save, because only the order within a chain is significant.
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


def _rule_changes(family: Family, desired: Rules, actual: Rules) -> Iterator[Change]:
    """The tables to replace. Without a desired table, the firewall of this family is not managed."""
    if not desired.tables:
        return
    for table in sorted({*desired.tables, *actual.tables}):
        lines = tuple(desired.tables.get(table, ()))
        if canonical_rules(lines) != canonical_rules(actual.tables.get(table, ())):
            yield ReplaceTable(family, table, lines)


def _device_changes(desired: Iterable[Device], actual: Iterable[Device]) -> Iterator[Change]:
    actual_devices = {device.name: device for device in actual}
    for device in desired:
        current = actual_devices.get(device.name)
        if current is None:
            yield AddDevice(device)
        elif current.host_name != device.host_name:
            yield RemoveDevice(device.name)
            yield AddDevice(device)
        else:
            attributes = tuple(
                name
                for name in ("mac_address", "mtu", "bridge", "up")
                if getattr(current, name) != getattr(device, name)
            )
            if attributes:
                yield AdjustDevice(device, attributes)


def _address_changes(desired: Iterable[Device], actual: Iterable[Device]) -> Iterator[Change]:
    actual_devices = {device.name: (device.host_name, device.addresses or frozenset()) for device in actual}
    for device in desired:
        if device.addresses is None:
            continue
        host_name, addresses = actual_devices.get(device.name, ("", frozenset()))
        if host_name != device.host_name:  # the device is recreated without addresses
            addresses = frozenset()
        yield from (AddAddress(device.name, address) for address in sorted(device.addresses - addresses))
        yield from (RemoveAddress(device.name, address) for address in sorted(addresses - device.addresses))


def _route_changes(desired: NamespaceState, actual: NamespaceState) -> Iterator[Change]:
    if desired.routes is None:
        return
    actual_routes = actual.routes or frozenset()
    yield from (PutRoute(route) for route in _on_link_first(desired.routes - actual_routes))
    yield from (RemoveRoute(route) for route in _on_link_first(actual_routes - desired.routes))


def _on_link_first(routes: frozenset[Route]) -> list[Route]:
    """Sorts routes without a gateway first, because a gateway may be reachable only through one of them."""
    return sorted(routes, key=lambda route: (route.gateway is not None, route.destination, route.device))


def describe(change: Change) -> str:  # noqa: C901 - a table with one case for each kind of change
    """The change in logs and errors: `add address 192.168.40.2/24 on tap01e7ee7b-98`."""
    match change:
        case CreateNamespace(name, _):
            return f"create namespace {name}"
        case SetSysctl(key, value):
            return f"set {key} = {value}"
        case ReplaceTable(family, table, lines):
            return f"replace {family} table {table} ({sum(line.startswith('-A') for line in lines)} rules)"
        case AddDevice(device):
            return f"add device {device.name} (on the host {device.host_name} on {device.bridge})"
        case AdjustDevice(device, attributes):
            return f"set {', '.join(attributes)} of device {device.name}"
        case RemoveDevice(name):
            return f"remove device {name}"
        case AddAddress(device, address):
            return f"add address {address} on {device}"
        case RemoveAddress(device, address):
            return f"remove address {address} from {device}"
        case PutRoute(route):
            return f"set route {_route_text(route)}"
        case RemoveRoute(route):
            return f"remove route {_route_text(route)}"


def _route_text(route: Route) -> str:
    via = f" via {route.gateway}" if route.gateway else ""
    return f"{route.destination}{via} dev {route.device}"
