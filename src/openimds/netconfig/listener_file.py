"""The file in which the DHCP and the L3 agent state the addresses that the metadata agent listens on in a namespace.

`<state_path>/ns-metadata-proxy/<network or router id>.json`, one file for each namespace:

    {"kind": "network", "id": "1f0d…", "namespace": "qdhcp-1f0d…", "namespace_inode": 4026532257,
     "addresses": [["169.254.169.254", 80], ["fe80::a9fe:a9fe%tap59c6e1f0-1e", 80, 2]]}

`kind` and `id` are the network or router that requests are attributed to. On a metadata network this is the router
behind it. The inode of the namespace, and the device index after a link-local address, distinguish a namespace or a
device from a later one of the same name, so that a recreation changes the file. (The kernel reuses inode numbers, but not
while a socket of the former namespace is open.)
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

FOLDER = "ns-metadata-proxy"
SUFFIX = ".json"


class Scope(enum.Enum):
    """The kind of resource that requests through a proxy are attributed to. It determines the header and the log key."""

    NETWORK = "network"
    ROUTER = "router"

    @property
    def header(self) -> str:
        return f"X-Neutron-{self.value.capitalize()}-ID"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """`ListenAddress("fe80::a9fe:a9fe", 80, "tap59c6e1f0-1e", 2)`"""

    host: str
    port: int
    device: str = ""
    """The device of a link-local address; empty for any other address."""
    device_index: int = 0
    """The index of the device. 0 if the index is unknown or there is no device."""

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    def __str__(self) -> str:
        host = f"{self.host}%{self.device}" if self.device else self.host
        return f"[{host}]:{self.port}" if self.is_ipv6 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredListeners:
    """The desired listeners of one namespace."""

    scope: Scope
    scope_id: str
    namespace: str
    namespace_inode: int
    addresses: tuple[ListenAddress, ...]

    @property
    def tag(self) -> str:
        """`network:<id>` or `router:<id>`. Each request through the listener carries this tag."""
        return f"{self.scope.value}:{self.scope_id}"


class ListenersFileError(Exception):
    """The listener file is malformed. The message names the field."""


def listeners_file(name: str, state_path: Path) -> Path:
    """The path of a file. `name` is the id of the namespace's network or router."""
    return state_path / FOLDER / f"{name}{SUFFIX}"


def with_indexes(addresses: Sequence[ListenAddress], indexes: Mapping[str, int]) -> tuple[ListenAddress, ...]:
    return tuple(replace(address, device_index=indexes.get(address.device, 0)) for address in addresses)


def render_listeners(desired: DesiredListeners) -> str:
    content = {
        "kind": desired.scope.value,
        "id": desired.scope_id,
        "namespace": desired.namespace,
        "namespace_inode": desired.namespace_inode,
        "addresses": [_address_item(address) for address in desired.addresses],
    }
    return json.dumps(content) + "\n"


def parse_listeners(text: str) -> DesiredListeners:
    """Raises ListenersFileError."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ListenersFileError(f"is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ListenersFileError("is not a JSON object")
    return DesiredListeners(
        scope=_scope(content),
        scope_id=_string(content, "id"),
        namespace=_file_name(content, "namespace"),
        namespace_inode=_number(content.get("namespace_inode"), "namespace_inode", 2**64),
        addresses=_addresses(content.get("addresses")),
    )


def _address_item(address: ListenAddress) -> list[str | int]:
    if address.device:
        return [f"{address.host}%{address.device}", address.port, address.device_index]
    return [address.host, address.port]


def _scope(content: Mapping[str, Any]) -> Scope:
    try:
        return Scope(content.get("kind"))
    except ValueError:
        raise ListenersFileError('"kind" is neither "network" nor "router"') from None


def _string(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise ListenersFileError(f'"{name}" is empty or not a string')
    return value


def _file_name(content: Mapping[str, Any], name: str) -> str:
    value = _string(content, name)
    if "/" in value or "\0" in value or value in (".", ".."):
        raise ListenersFileError(f'"{name}" is not a namespace name')
    return value


def _addresses(value: object) -> tuple[ListenAddress, ...]:
    if not isinstance(value, list) or not value:
        raise ListenersFileError('"addresses" is not a list of addresses')
    return tuple(dict.fromkeys(_address(item) for item in value))


def _address(value: object) -> ListenAddress:
    if not isinstance(value, list) or len(value) not in (2, 3) or not isinstance(value[0], str):
        raise ListenersFileError('"addresses" contains an item other than ["address", port]')
    plain, _, device = value[0].partition("%")
    try:
        host = ip_address(plain)
    except ValueError:
        raise ListenersFileError(f'"addresses": {plain!r} is not an IP address') from None
    if (isinstance(host, IPv6Address) and host.is_link_local) != bool(device):
        raise ListenersFileError(f'"addresses": {value[0]!r}: only a link-local IPv6 address has, and needs, a device')
    index = _number(value[2], "addresses", 2**31) if len(value) > 2 else 0
    return ListenAddress(str(host), _number(value[1], "addresses", 2**16), device, index)


def _number(value: object, name: str, beyond: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < beyond:
        raise ListenersFileError(f'"{name}": {value!r} is not a number between 1 and {beyond - 1}')
    return value
