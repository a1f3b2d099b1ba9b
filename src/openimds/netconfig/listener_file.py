"""Where the metadata agent listens inside a namespace, and the file by which the DHCP and the L3 agent say so.

`<state_path>/ns-metadata-proxy/<network or router id>.json`, one a namespace:

    {"kind": "network", "id": "1f0d…", "namespace": "qdhcp-1f0d…", "namespace_inode": 4026532257,
     "addresses": [["169.254.169.254", 80], ["fe80::a9fe:a9fe%tap59c6e1f0-1e", 80, 2]]}

`kind` and `id` say for whom a request that comes by it speaks: of a metadata network it is the router behind it. The
inode, and the device's index after a link-local address, are what tells a namespace or a device from a later one of the
same name: whoever makes one anew says so by a new text. (The kernel gives an inode's number again, but not while a socket
of the former namespace is open.)
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
    """What a namespace's proxy speaks for: the header that it sets, and its name in the log."""

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
    """For a link-local address: it means something on a device only."""
    device_index: int = 0
    """0: not known, or of no device."""

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    def __str__(self) -> str:
        host = f"{self.host}%{self.device}" if self.device else self.host
        return f"[{host}]:{self.port}" if self.is_ipv6 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredListeners:
    """One namespace's."""

    scope: Scope
    scope_id: str
    namespace: str
    namespace_inode: int
    addresses: tuple[ListenAddress, ...]

    @property
    def tag(self) -> str:
        """`network:<id>` or `router:<id>`, as requests that come by it carry it."""
        return f"{self.scope.value}:{self.scope_id}"


class ListenersFileError(Exception):
    """The file is not what it should be; the sentence says where."""


def listeners_file(name: str, state_path: Path) -> Path:
    """`name`: the network's or the router's whose namespace it is."""
    return state_path / FOLDER / f"{name}{SUFFIX}"


def with_indexes(addresses: Sequence[ListenAddress], indexes: Mapping[str, int]) -> tuple[ListenAddress, ...]:
    return tuple(replace(address, device_index=indexes.get(address.device, 0)) for address in addresses)


def render_listeners(wanted: DesiredListeners) -> str:
    content = {
        "kind": wanted.scope.value,
        "id": wanted.scope_id,
        "namespace": wanted.namespace,
        "namespace_inode": wanted.namespace_inode,
        "addresses": [_rendered(address) for address in wanted.addresses],
    }
    return json.dumps(content) + "\n"


def parse_listeners(text: str) -> DesiredListeners:
    """Raises ListenersFileError."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ListenersFileError(f"is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ListenersFileError("is no JSON object")
    return DesiredListeners(
        scope=_scope(content),
        scope_id=_word(content, "id"),
        namespace=_file_name(content, "namespace"),
        namespace_inode=_number(content.get("namespace_inode"), "namespace_inode", 2**64),
        addresses=_addresses(content.get("addresses")),
    )


def _rendered(address: ListenAddress) -> list[str | int]:
    if address.device:
        return [f"{address.host}%{address.device}", address.port, address.device_index]
    return [address.host, address.port]


def _scope(content: Mapping[str, Any]) -> Scope:
    try:
        return Scope(content.get("kind"))
    except ValueError:
        raise ListenersFileError('"kind" is neither "network" nor "router"') from None


def _word(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise ListenersFileError(f'"{name}" is no text')
    return value


def _file_name(content: Mapping[str, Any], name: str) -> str:
    value = _word(content, name)
    if "/" in value or "\0" in value or value in (".", ".."):
        raise ListenersFileError(f'"{name}" is no name of a namespace')
    return value


def _addresses(value: object) -> tuple[ListenAddress, ...]:
    if not isinstance(value, list) or not value:
        raise ListenersFileError('"addresses" is no list of addresses')
    return tuple(dict.fromkeys(_address(one) for one in value))


def _address(value: object) -> ListenAddress:
    if not isinstance(value, list) or len(value) not in (2, 3) or not isinstance(value[0], str):
        raise ListenersFileError('"addresses" has something other than ["address", port]')
    plain, _, device = value[0].partition("%")
    try:
        host = ip_address(plain)
    except ValueError:
        raise ListenersFileError(f'"addresses": {plain!r} is no IP address') from None
    if (isinstance(host, IPv6Address) and host.is_link_local) != bool(device):
        raise ListenersFileError(f'"addresses": {value[0]!r}: a device follows a link-local IPv6 address, and no other')
    index = _number(value[2], "addresses", 2**31) if len(value) > 2 else 0
    return ListenAddress(str(host), _number(value[1], "addresses", 2**16), device, index)


def _number(value: object, name: str, beyond: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < beyond:
        raise ListenersFileError(f'"{name}": {value!r} is no number between 1 and {beyond - 1}')
    return value
