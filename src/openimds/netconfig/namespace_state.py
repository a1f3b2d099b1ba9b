"""The state of a namespace as a value, used for both the desired and the actual state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A network's bridge in the root namespace. It never has an address."""

    name: str
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A veth pair: `name` inside the namespace, `host_name` on `bridge` in the root namespace."""

    name: str
    host_name: str
    bridge: str
    mac_address: str
    mtu: int
    addresses: frozenset[str] | None
    """The addresses, such as `192.168.40.1/24`; None if they are not managed, because an instance configures its own.

    The set contains no loopback address, and no link-local IPv6 address that the kernel assigns."""
    up: bool = True
    """Whether both ends are up."""


@dataclass(frozen=True, slots=True)
class Route:
    destination: str
    """A CIDR; `0.0.0.0/0` or `::/0` for a default route."""
    gateway: str | None
    device: str


@dataclass(frozen=True, slots=True)
class Rules:
    """A namespace's iptables or ip6tables rules by table, in the format of iptables-save.

    `{"nat": ("-A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697",)}`

    A user-defined chain is a line `:neutron-name - [0:0]` before the rules. Without any table, the firewall of this
    address family is not managed. Otherwise each table that is not listed is empty.
    """

    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceState:
    """The complete state of a namespace. Applying it is idempotent."""

    name: str
    devices: tuple[Device, ...] = ()
    routes: frozenset[Route] | None = frozenset()
    """The routes without the connected ones, which the kernel adds; None if they are not managed."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """`{"net.ipv4.ip_forward": "1"}`"""
    ipv4_rules: Rules = field(default_factory=Rules)
    ipv6_rules: Rules = field(default_factory=Rules)
    owner_uid: int | None = None
    """The host uid that root maps to in the owning user namespace; the next 65,535 uids map to its other users.

    None if the host's user namespace owns it. Used only at the creation, and never compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A program that keeps running when its agent exits. It is found by its pid file and its command line."""

    name: str
    """The name in logs: `haproxy`, `dnsmasq`."""
    argv: tuple[str, ...]
    pid_file: Path
    """The pid file, which the program itself writes."""
    namespace: str
