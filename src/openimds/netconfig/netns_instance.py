"""An instance of the netns driver: the NIC plan of a boot, and the state of a boot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openimds.resources.network import Port, Subnet

SLAAC_MODES = frozenset({"slaac", "dhcpv6-stateless"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSpec:
    """The parameters of one boot of an instance by the netns driver."""

    server_id: str
    generation: int
    namespace: str
    nics: str
    """The concatenated NIC plans of all ports (see `nic_plan`)."""
    memory_mib: int = 0
    """The memory of the instance, from its flavor. 0 if the driver's default applies."""
    disk_gib: int = 0
    """The size of the disk, from its flavor. 0 if the driver's default applies."""


@dataclass(frozen=True, slots=True)
class BootState:
    generation: int
    """The generation of the newest started boot."""
    running: bool


def nic_name(position: int) -> str:
    """The name of a server's NIC by its position: `eth0` for the first port."""
    return f"eth{position}"


def nic_plan(name: str, port: Port, subnets: Mapping[str, Subnet]) -> str:
    """The steps that configure a NIC, one line for each method.

    `eth0 dhcp4`, `eth0 dhcp6`, `eth1 static 10.7.0.5/24 10.7.0.254`, `eth1 auto` (the kernel processes router
    advertisements).
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
