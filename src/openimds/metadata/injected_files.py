"""The files at `content/NNNN` that meta_data.json lists: the interfaces file first, then the user's injected files.

The interfaces(5) file describes networks with `flat_injected`. It has Debian's format and nova's exact text, because
images compare it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from openimds.metadata.network_data import first_subnets
from openimds.resources.instance import Instance, Nic, NicSubnet

_HEAD = """\
# Injected by Nova on instance boot
#
# This file describes the network interfaces available on your system
# and how to activate them. For more information, see interfaces(5).

# The loopback network interface
auto lo
iface lo inet loopback
"""


def interfaces_file(nics: Sequence[Nic]) -> str | None:
    """The file's text, or None if no NIC is injected. A NIC whose subnet has a DHCP server is left out."""
    numbered = enumerate(nic for nic in nics if nic.subnets)
    injected = [(number, nic) for number, nic in numbered if nic.injected and not _has_dhcp(nic)]
    if not injected:
        return None
    # Nova's template engine drops the last newline of the file.
    return (_HEAD + "".join(_stanza(f"eth{number}", nic) for number, nic in injected)).removesuffix("\n")


def _has_dhcp(nic: Nic) -> bool:
    return any(subnet.has_dhcp_server for subnet in first_subnets(nic))


def _stanza(device: str, nic: Nic) -> str:
    lines = ["", f"auto {device}"]
    for subnet in first_subnets(nic):
        if subnet.addresses:
            lines += _family_lines(device, nic, subnet)
    return "".join(f"{line}\n" for line in lines)


def _family_lines(device: str, nic: Nic, subnet: NicSubnet) -> list[str]:
    network = ip_network(subnet.cidr, strict=False)
    is_v4 = subnet.ip_version == 4
    lines = [
        f"iface {device} {'inet' if is_v4 else 'inet6'} static",
        f"    hwaddress ether {nic.mac_address}",
        f"    address {subnet.addresses[0].ip_address}",
        f"    netmask {network.netmask if is_v4 else network.prefixlen}",
    ]
    if is_v4:
        lines.append(f"    broadcast {network.broadcast_address}")
    if subnet.gateway_ip:
        lines.append(f"    gateway {subnet.gateway_ip}")
    if subnet.dns_nameservers:
        lines.append(f"    dns-nameservers {' '.join(subnet.dns_nameservers)}")
    return lines


FOLDER = "content"


@dataclass(frozen=True, slots=True)
class ContentFile:
    number: str
    """`0000`"""
    path: str | None
    """The file's path in the instance. None for the interfaces file."""
    contents: bytes = field(repr=False)

    @property
    def content_path(self) -> str:
        """`/content/0000`"""
        return f"/{FOLDER}/{self.number}"


def content_files(instance: Instance) -> list[ContentFile]:
    """All files of the instance, in the order of their numbers."""
    unnumbered: list[tuple[str | None, bytes]] = []
    interfaces = interfaces_file(instance.nics)
    if interfaces is not None:
        unnumbered.append((None, interfaces.encode()))
    unnumbered += [(file.path, file.contents) for file in instance.files]
    return [ContentFile(f"{number:04}", path, contents) for number, (path, contents) in enumerate(unnumbered)]
