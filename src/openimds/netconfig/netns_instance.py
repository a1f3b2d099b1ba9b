"""An instance of the netns driver: what its boot is told about its NICs, and what is known of a boot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openimds.resources.network import Port, Subnet

SLAAC_MODES = frozenset({"slaac", "dhcpv6-stateless"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSpec:
    """One start of an instance."""

    server_id: str
    generation: int
    namespace: str
    nics: str
    """`nic_plan`"""


@dataclass(frozen=True, slots=True)
class BootState:
    generation: int
    """Of the newest boot that was started."""
    running: bool


def nic_name(position: int) -> str:
    """`eth0` for a server's first port."""
    return f"eth{position}"


def nic_plan(name: str, port: Port, subnets: Mapping[str, Subnet]) -> str:
    """What to do for a NIC, a line for each of its ways to addresses.

    `eth0 dhcp4`, `eth0 dhcp6`, `eth1 static 10.7.0.5/24 10.7.0.254`, `eth1 auto` (the kernel takes router
    advertisements by itself).
    """
    steps = [
        _step(subnets[fixed.subnet_id], fixed.ip_address) for fixed in port.fixed_ips if fixed.subnet_id in subnets
    ]
    return "".join(f"{name} {step}\n" for step in dict.fromkeys(["auto", *steps]))


def _step(subnet: Subnet, address: str) -> str:
    if subnet.ip_version == 4 and subnet.enable_dhcp:
        return "dhcp4"
    if subnet.ip_version == 6 and subnet.ipv6_address_mode in SLAAC_MODES:
        return "auto"
    if subnet.ip_version == 6 and subnet.ipv6_address_mode == "dhcpv6-stateful" and subnet.enable_dhcp:
        return "dhcp6"
    return f"static {address}/{subnet.prefix_length} {subnet.gateway_ip or ''}".rstrip()
