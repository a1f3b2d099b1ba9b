"""Values of the compute API. Sizes have Nova's units: MiB and GiB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from openimds.resources.caller import NO_RIGHTS, Caller, Rights

COMPUTE_AGENT_BINARY = "openimds-compute-agent"
DEFAULT_ZONE = "nova"
"""The availability zone of a host without a configured zone."""

DRIVER_EXTRA_SPEC = "openimds:driver"
"""Extra spec of a flavor that selects the compute driver of its servers (`netns`, `external`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requester:
    """The user, project and request of a store operation."""

    user_id: str
    project_id: str
    request_id: str
    is_admin: bool = False
    """True if the rule `context_is_admin` permits it. An administrator sees and changes resources of all projects."""
    rights: Rights = field(default=NO_RIGHTS, repr=False, compare=False)

    @property
    def caller(self) -> Caller:
        """The same caller for the network's part of a store operation."""
        return Caller(project_id=self.project_id, is_admin=self.is_admin, rights=self.rights)

    def authorize(self, action: str, project_id: str) -> None:
        """Raises Forbidden unless the policy permits the action on a resource of the project."""
        self.caller.authorize(action, project_id)


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
        """The copy of the flavor that a server stores at its creation."""
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
    """One entry of `networks` in a server's creation, or an interface to attach. It names a port or a network."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewServer:
    """The parsed body of `POST /servers`. The store checks that the objects it names exist."""

    name: str
    hostname: str | None = None
    """None if the host name is derived from the name."""
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
    """None if the project's only network is chosen. Empty if the server has no NIC."""
    nics_optional: bool = True
    """If True and `nics` is None, the server is created without a NIC if the project has no network."""
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
    """The parsed body of the action `rebuild`. None leaves an attribute unchanged; `clear_…` removes it."""

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
    """Filters of a server list. A server must match all of them. `project_id` is None for all projects."""

    project_id: str | None
    name: str | None = None
    """A regular expression, as in Nova."""
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
    """(key, descending) pairs. If empty, the newest server is first."""
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
    """A server with all attributes that its owner and administrators can see."""

    id: str
    name: str
    project_id: str
    user_id: str
    hostname: str
    description: str | None
    image_id: str | None
    flavor: Mapping[str, Any]
    availability_zone: str | None
    """The zone of the server's host, or the requested zone before a host is chosen."""
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
    """Nova's number: 0 not known, 1 running, 4 shut down."""
    vm_state: str
    fault: Mapping[str, Any] | None
    addresses: tuple[ServerAddress, ...]
    access_ip_v4: str | None
    access_ip_v6: str | None
    created_at: datetime
    updated_at: datetime
    launched_at: datetime | None
    ec2_number: int
    """The number in the EC2 id: 42 for i-0000002a."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceAction:
    """One request of a user that changed a server (os-instance-actions)."""

    request_id: str
    server_id: str
    action: str
    user_id: str
    project_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A NIC of a server."""

    port_id: str
    network_id: str
    mac_address: str
    status: str
    fixed_ips: tuple[Mapping[str, str], ...]
    """({"subnet_id": …, "ip_address": …}, …)"""
    tag: str | None = None
