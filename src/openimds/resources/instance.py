"""An instance as its documents tell of it: all that a guest may read, and nothing that it may not.

The network part is a snapshot of the ports' addresses in the shape in which documents show them, so that rendering
needs no other resource.

What a span of revisions changed, as far as instances' documents can tell.

What a dynamic vendor data target says of an instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openimds.resources.network import HostRoute


@dataclass(frozen=True, slots=True)
class InstanceKey:
    """The key pair named at creation. `public_key` is None when the pair was gone before it could be copied."""

    name: str
    type: str
    public_key: str | None


@dataclass(frozen=True, slots=True)
class InjectedFile:
    path: str
    contents: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NicAddress:
    """One fixed IP and the floating IPs that lead to it."""

    ip_address: str
    floating_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NicSubnet:
    """A subnet as one NIC sees it: `addresses` are this NIC's own."""

    ip_version: int
    cidr: str
    gateway_ip: str | None = None
    addresses: tuple[NicAddress, ...] = ()
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    enable_dhcp: bool = False
    has_dhcp_server: bool = False
    """A DHCP port has an address on this subnet."""
    ipv6_address_mode: str | None = None
    """`slaac`, `dhcpv6-stateful`, `dhcpv6-stateless` or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    port_id: str
    mac_address: str | None
    vif_type: str | None
    """Neutron's `binding:vif_type`: `bridge`, `ovs`, …"""
    device_name: str | None
    """The tap device on the host, which is the link's id in network_data.json."""
    network_id: str
    mtu: int | None = None
    injected: bool = False
    """nova's flat_injected: the guest is handed an interfaces file for it."""
    subnets: tuple[NicSubnet, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDevice:
    """One of nova's block device mappings, as far as documents show it."""

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
    """A device that the guest can find by what the user called it."""

    type: Literal["nic", "disk", "share"]
    bus: str | None = None
    """`pci`, `usb`, `scsi`, `ide`, `xen`, or None when it sits on no known bus."""
    address: str | None = None
    """On the bus: `0000:00:03.0`."""
    tags: tuple[str, ...] | None = None
    """None: no tags were ever given, which is not the same as an empty list of them."""
    mac_address: str | None = None
    vlan: int | None = None
    vf_trusted: bool = False
    serial: str | None = None
    path: str | None = None
    share_id: str | None = None
    share_tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ec2Ids:
    """Stable for the life of the instance and its images."""

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
    """Without the domain."""
    ec2_ids: Ec2Ids
    flavor_name: str
    image_id: str | None = None
    launch_index: int = 0
    launched_at: float | None = None
    """Seconds since the epoch; None before its first boot is over."""
    availability_zone: str | None = None
    reservation_id: str | None = None
    key: InstanceKey | None = None
    user_data: bytes | None = field(default=None, repr=False)
    """The user's bytes as given. Empty is not the same as none."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: tuple[InjectedFile, ...] = ()
    security_groups: tuple[str, ...] = ()
    """Names."""
    nics: tuple[Nic, ...] = ()
    root_device_name: str | None = None
    default_ephemeral_device: str | None = None
    default_swap_device: str | None = None
    block_devices: tuple[BlockDevice, ...] = ()
    devices: tuple[TaggedDevice, ...] = ()
    dedicated_cpus: tuple[int, ...] = ()
    boot_roles: str = ""
    """The roles of the user who made it, comma separated: for dynamic vendor data alone."""
    password: str | None = field(default=None, repr=False)
    """What the guest posted, encrypted by it for its user; None until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSet:
    """Everything that was read before `revision` and has to do with one of these may be wrong now."""

    revision: int
    everything: bool = False
    """It cannot be told what changed: all of it may have."""
    instance_ids: frozenset[str] = frozenset()
    port_ids: frozenset[str] = frozenset()
    network_ids: frozenset[str] = frozenset()
    store_id: str = ""
    """The identity of the database."""

    @property
    def is_nothing(self) -> bool:
        return not (self.everything or self.instance_ids or self.port_ids or self.network_ids)


@dataclass(frozen=True, slots=True)
class VendordataResponse:
    content: Any
    """The JSON value; None: it answered without a body."""
    size_bytes: int = 0
    """As it was sent."""
    fresh_seconds: float = 0
    """So long it may be told again without asking; 0: not at all."""
