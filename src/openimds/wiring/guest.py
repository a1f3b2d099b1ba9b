"""An instance of the netns driver: what its boot is told about its NICs, and what is known of a boot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from openimds.resources.network import Port, Subnet

SLAAC_MODES = frozenset({"slaac", "dhcpv6-stateless"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestBoot:
    """One start of an instance."""

    server_id: str
    generation: int
    namespace: str
    nics: str
    """`nic_plan`"""


@dataclass(frozen=True, slots=True)
class GuestState:
    generation: int
    """Of the newest boot that was started."""
    running: bool


def nic_name(position: int) -> str:
    """`eth0` for a server's first port."""
    return f"eth{position}"


def nic_plan(ports: Iterable[Port], subnets: Mapping[str, Subnet]) -> str:
    """What to do for each NIC, a line each, in the order of the ports.

    `eth0 dhcp4`, `eth0 dhcp6`, `eth1 static 10.7.0.5/24 10.7.0.254`, `eth1 auto` (the kernel takes router
    advertisements by itself).
    """
    lines: list[str] = []
    for position, port in enumerate(ports):
        name = nic_name(position)
        steps = [
            _step(subnets[fixed.subnet_id], fixed.ip_address) for fixed in port.fixed_ips if fixed.subnet_id in subnets
        ]
        lines += [f"{name} {step}" for step in dict.fromkeys(steps or ["auto"])]
    return "".join(f"{line}\n" for line in lines)


def _step(subnet: Subnet, address: str) -> str:
    if subnet.ip_version == 4 and subnet.enable_dhcp:
        return "dhcp4"
    if subnet.ip_version == 6 and subnet.ipv6_address_mode in SLAAC_MODES:
        return "auto"
    if subnet.ip_version == 6 and subnet.ipv6_address_mode == "dhcpv6-stateful" and subnet.enable_dhcp:
        return "dhcp6"
    return f"static {address}/{subnet.prefix_length} {subnet.gateway_ip or ''}".rstrip()
