"""An instance record: all data of an instance that its documents show, and nothing else.

The NICs are a snapshot of the ports' addresses in the structure of the documents, so that rendering needs no other
resource.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openimds.resources.network import HostRoute

EC2_INSTANCE = "instance"
EC2_IMAGE = "image"
"""Kinds of objects with EC2 ids. Each kind has its own numbers."""


@dataclass(frozen=True, slots=True)
class InstanceKey:
    """The key pair of the server. `public_key` is None if the pair was deleted before the server stored a copy."""

    name: str
    type: str
    public_key: str | None


@dataclass(frozen=True, slots=True)
class InjectedFile:
    path: str
    contents: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NicAddress:
    """One fixed IP and its floating IPs."""

    ip_address: str
    floating_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NicSubnet:
    """A subnet of a NIC, with the NIC's addresses."""

    ip_version: int
    cidr: str
    gateway_ip: str | None = None
    addresses: tuple[NicAddress, ...] = ()
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    enable_dhcp: bool = False
    has_dhcp_server: bool = False
    """True if a DHCP port has an address on this subnet."""
    ipv6_address_mode: str | None = None
    """`slaac`, `dhcpv6-stateful`, `dhcpv6-stateless` or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    port_id: str
    mac_address: str | None
    vif_type: str | None
    """Neutron's `binding:vif_type`: `bridge`, `ovs`, …"""
    device_name: str | None
    """The tap device on the host. network_data.json shows it as the link's id."""
    network_id: str
    mtu: int | None = None
    injected: bool = False
    """Nova's flat_injected. If True, the interfaces file describes the NIC."""
    subnets: tuple[NicSubnet, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDevice:
    """The fields of a block device mapping of nova that documents show."""

    source_type: str | None
    """`image`, `blank`, `volume`, `snapshot`."""
    destination_type: str | None
    """`local` or `volume`."""
    device_name: str | None = None
    """`/dev/vdb`"""
    guest_format: str | None = None
    """`swap`, a file system's name, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedDevice:
    """A device with the user's tags, by which software in the instance finds it."""

    type: Literal["nic", "disk", "share"]
    bus: str | None = None
    """`pci`, `usb`, `scsi`, `ide`, `xen`, or None if the bus is not known."""
    address: str | None = None
    """Address on the bus: `0000:00:03.0`."""
    tags: tuple[str, ...] | None = None
    """None if the device never had tags. Documents then omit the key, while they show an empty list."""
    mac_address: str | None = None
    vlan: int | None = None
    vf_trusted: bool = False
    serial: str | None = None
    path: str | None = None
    share_id: str | None = None
    share_tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ec2Ids:
    """EC2 ids. They do not change during the life of the instance and its images."""

    instance_id: str | None
    """`i-0000002a`"""
    ami_id: str | None = None
    kernel_id: str | None = None
    """`aki-…`"""
    ramdisk_id: str | None = None
    """`ari-…`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    id: str
    project_id: str
    name: str
    hostname: str
    """The host name without the domain."""
    ec2_ids: Ec2Ids
    flavor_name: str
    image_id: str | None = None
    launch_index: int = 0
    launched_at: float | None = None
    """Seconds since the epoch. None until the first boot has finished."""
    availability_zone: str | None = None
    reservation_id: str | None = None
    key: InstanceKey | None = None
    user_data: bytes | None = field(default=None, repr=False)
    """The user's unchanged bytes. Empty user data differ from None."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: tuple[InjectedFile, ...] = ()
    security_groups: tuple[str, ...] = ()
    """Names of the security groups."""
    nics: tuple[Nic, ...] = ()
    root_device_name: str | None = None
    default_ephemeral_device: str | None = None
    default_swap_device: str | None = None
    block_devices: tuple[BlockDevice, ...] = ()
    devices: tuple[TaggedDevice, ...] = ()
    dedicated_cpus: tuple[int, ...] = ()
    boot_roles: str = ""
    """Comma-separated roles of the server's creator. Only dynamic vendor data targets receive them."""
    password: str | None = field(default=None, repr=False)
    """The password that the instance posted, encrypted with the user's public key. None before that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSet:
    """The objects that changed up to `revision`. Cached data about them from before is stale."""

    revision: int
    everything: bool = False
    """True if the changes are not known, so that all cached data may be stale."""
    instance_ids: frozenset[str] = frozenset()
    port_ids: frozenset[str] = frozenset()
    network_ids: frozenset[str] = frozenset()
    store_id: str = ""
    """The identity of the database."""
    epoch: str = ""
    """The epoch of `revision`. Empty if the database is older than its first epoch."""
    known_epoch: str = ""
    """The epoch of the revision that the client knew before."""

    @property
    def is_empty(self) -> bool:
        return not (self.everything or self.instance_ids or self.port_ids or self.network_ids)


@dataclass(frozen=True, slots=True)
class VendordataResponse:
    """The response of a dynamic vendor data target."""

    content: Any
    """The JSON value. None if the response has no body."""
    size_bytes: int = 0
    """Size of the body."""
    fresh_seconds: float = 0
    """Time that the response may be cached, from its headers. 0 if it must not be cached."""


def ec2_text(prefix: str, number: int) -> str:
    """`ec2_text("i", 42)` → `i-0000002a`"""
    return f"{prefix}-{number:08x}"
