"""The compute service's nouns, as the control API's people see them. Sizes as Nova has them: MiB and GiB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

COMPUTE_AGENT_BINARY = "openimds-compute-agent"
DEFAULT_ZONE = "nova"
"""The availability zone of a host that names none."""

DRIVER_EXTRA_SPEC = "openimds:driver"
"""A flavor's extra spec that says which compute driver runs its servers (`netns`, `external`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requester:
    """On whose behalf something is done, and in which request."""

    user_id: str
    project_id: str
    request_id: str
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    id: str
    name: str
    ram_mib: int
    vcpus: int
    disk_gib: int
    ephemeral_gib: int = 0
    swap_mib: int = 0
    is_public: bool = True
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None

    def embedded(self) -> dict[str, Any]:
        """As a server keeps it: what it was when the server was made."""
        return {
            "id": self.id,
            "name": self.name,
            "ram": self.ram_mib,
            "vcpus": self.vcpus,
            "disk": self.disk_gib,
            "ephemeral": self.ephemeral_gib,
            "swap": self.swap_mib,
            "extra_specs": dict(self.extra_specs),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Keypair:
    user_id: str
    name: str
    type: str = "ssh"
    """`ssh` or `x509`."""
    public_key: str
    fingerprint: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeHost:
    name: str
    zone: str
    driver: str
    alive: bool
    agent_id: str
    heartbeat_at: datetime
    started_at: datetime
    configurations: Mapping[str, Any]
    running_servers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NicRequest:
    """One entry of `networks` when a server is made, or an interface to attach. Either a port or a network."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewServer:
    """What `POST /servers` asks for, checked in form; whether what it names exists is the store's to say."""

    name: str
    hostname: str | None = None
    """None: made from the name."""
    description: str | None = None
    image_id: str | None
    flavor_id: str
    key_name: str | None = None
    user_data: bytes | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    personality: tuple[Mapping[str, str], ...] = ()
    """({"path": …, "contents": base64}, …)"""
    availability_zone: str | None = None
    host: str | None = None
    nics: tuple[NicRequest, ...] | None = None
    """None: the project's one network; empty: none at all."""
    nics_optional: bool = True
    """Where `nics` is None: is a server without a network good enough when there is none to choose?"""
    security_groups: tuple[str, ...] = ("default",)
    """Names or ids."""
    config_drive: bool = False
    tags: tuple[str, ...] = ()
    access_ip_v4: str | None = None
    access_ip_v6: str | None = None
    min_count: int = 1
    max_count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """What `rebuild` asks for; None leaves a thing as it is. The `clear_…` say that it goes away."""

    image_id: str
    name: str | None = None
    hostname: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] | None = None
    personality: tuple[Mapping[str, str], ...] | None = None
    user_data: bytes | None = None
    clear_user_data: bool = False
    key_name: str | None = None
    clear_key: bool = False
    clear_description: bool = False
    access_ip_v4: str | None = None
    access_ip_v6: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerQuery:
    """Which servers to list. `project_id` None: those of all projects. Everything given must hold."""

    project_id: str | None
    name: str | None = None
    """A regular expression, as Nova has it."""
    statuses: tuple[str, ...] = ()
    host: str | None = None
    image_id: str | None = None
    flavor_id: str | None = None
    user_id: str | None = None
    key_name: str | None = None
    availability_zone: str | None = None
    reservation_id: str | None = None
    server_id: str | None = None
    hostname: str | None = None
    locked: bool | None = None
    ip: str | None = None
    """A regular expression on IPv4 addresses."""
    ip6: str | None = None
    changed_since: datetime | None = None
    changed_before: datetime | None = None
    tags_all: tuple[str, ...] = ()
    tags_any: tuple[str, ...] = ()
    not_tags_all: tuple[str, ...] = ()
    not_tags_any: tuple[str, ...] = ()
    sort: tuple[tuple[str, bool], ...] = ()
    """(key, descending) pairs; newest first where it is empty."""
    limit: int = 1000
    marker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    network_name: str
    address: str
    version: int
    mac_address: str
    floating: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """A server, whole, as its owner and administrators may see it."""

    id: str
    name: str
    project_id: str
    user_id: str
    hostname: str
    description: str | None
    image_id: str | None
    flavor: Mapping[str, Any]
    availability_zone: str | None
    """That of its host; what was asked for while it has none."""
    pinned_zone: str | None
    key_name: str | None
    user_data: bytes | None
    metadata: Mapping[str, str]
    security_group_names: tuple[str, ...]
    config_drive: bool
    launch_index: int
    reservation_id: str | None
    root_device_name: str | None
    kernel_id: str | None
    ramdisk_id: str | None
    tags: tuple[str, ...]
    locked: bool
    host: str
    status: str
    task_state: str | None
    power_state: int
    """Nova's: 0 nothing known, 1 running, 4 shut down."""
    vm_state: str
    fault: Mapping[str, Any] | None
    addresses: tuple[ServerAddress, ...]
    access_ip_v4: str | None
    access_ip_v6: str | None
    created_at: datetime
    updated_at: datetime
    launched_at: datetime | None
    ec2_number: int
    """The number in its EC2 id: 42 for i-0000002a."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceAction:
    """One request that a person made about a server."""

    request_id: str
    server_id: str
    action: str
    user_id: str
    project_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A server's NIC."""

    port_id: str
    network_id: str
    mac_address: str
    status: str
    fixed_ips: tuple[Mapping[str, str], ...]
    """({"subnet_id": …, "ip_address": …}, …)"""
    tag: str | None = None
