"""What a namespace should look like, as one value; and what it looks like, as the same value."""

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
    """`192.168.40.1/24`; None: not ours to manage (an instance configures its own). Automatic link-local IPv6
    addresses and loopback are never part of it unless they are wanted by name (`fe80::a9fe:a9fe/64`)."""
    up: bool = True
    """Both ends."""


@dataclass(frozen=True, slots=True)
class Route:
    destination: str
    """A CIDR; `0.0.0.0/0` and `::/0` for the default ones."""
    gateway: str | None
    device: str


@dataclass(frozen=True, slots=True)
class Rules:
    """A namespace's iptables or ip6tables rules, by table, in the spelling that iptables-save prints.

    `{"nat": ("-A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697",)}`;
    chains of our own are lines `:neutron-name - [0:0]` before the rules. No table at all: this family's firewall is not
    ours to manage; with one, a table that is not named is wanted empty.
    """

    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceState:
    """A namespace, whole. Applied as often as one likes."""

    name: str
    devices: tuple[Device, ...] = ()
    routes: frozenset[Route] | None = frozenset()
    """None: not ours to manage. Connected routes are the kernel's and not part of it."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """`{"net.ipv4.ip_forward": "1"}`"""
    ipv4_rules: Rules = field(default_factory=Rules)
    ipv6_rules: Rules = field(default_factory=Rules)
    owner_uid: int | None = None
    """The host's user id that is root in the user namespace that owns it (and the 65,535 after it its other users); None:
    the host's own. Said at its making; never compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A program that goes on when its agent ends: found again by its pid file and its command line."""

    name: str
    """For logs: `haproxy`, `dnsmasq`."""
    argv: tuple[str, ...]
    pid_file: Path
    """Written by the program itself."""
    namespace: str
