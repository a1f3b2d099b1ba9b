"""The tables. SQLite and PostgreSQL alike; ids are UUIDs as text, times are UTC without zone, addresses canonical text.

A class whose `watched()` yields (kind, id) pairs tells the store what a watcher hears of when one of its rows is
written: a row of its own kind, or the row that owns it (an allocation belongs to its port).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy import inspect as inspect_row
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from openimds.resources.network import DEVICE_OWNER_DHCP
from openimds.store.watched_kinds import ADDRESSING

UUID = String(36)
NAME = String(255)
_IS_DHCP = text(f"device_owner = '{DEVICE_OWNER_DHCP}'")


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own spelling


class Watched:
    """A row that watchers hear of. `watch_kind` is the kind's name on the wire (docs/design/watch.md)."""

    watch_kind: str
    id: Mapped[str]
    revision_number: Mapped[int]

    def watched(self) -> Iterator[tuple[str, str]]:
        yield self.watch_kind, self.id


class RevisionCounter(Base):
    """One row. `value` is the newest committed revision, `floor` the newest one whose changes were pruned."""

    __tablename__ = "revision_counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
    floor: Mapped[int] = mapped_column(BigInteger, default=0)


class Change(Base):
    """Which object a revision wrote or deleted: the tombstones live here until they are pruned."""

    __tablename__ = "changes"
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    object_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    deleted: Mapped[bool]
    at: Mapped[datetime] = mapped_column(DateTime, index=True)


# Identity ---------------------------------------------------------------------------------------------------------


class Project(Base):
    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    enabled: Mapped[bool] = mapped_column(default=True)
    domain_id: Mapped[str] = mapped_column(UUID, default="default")


class User(Base):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    enabled: Mapped[bool] = mapped_column(default=True)
    email: Mapped[str | None] = mapped_column(NAME)
    description: Mapped[str] = mapped_column(Text, default="")
    default_project_id: Mapped[str | None] = mapped_column(UUID)
    domain_id: Mapped[str] = mapped_column(UUID, default="default")
    password_changed_at: Mapped[datetime]
    """Tokens issued before it are void."""


class Role(Base):
    __tablename__ = "roles"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, unique=True)


class RoleAssignment(Base):
    """`target` is a project's id, or `system`."""

    __tablename__ = "role_assignments"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    target: Mapped[str] = mapped_column(UUID, primary_key=True)
    role_id: Mapped[str] = mapped_column(ForeignKey("roles.id", ondelete="CASCADE"), primary_key=True)


class RevokedToken(Base):
    """The audit ids of tokens that were revoked before they expired."""

    __tablename__ = "revoked_tokens"
    audit_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[datetime]


# Network ----------------------------------------------------------------------------------------------------------


class Network(Watched, Base):
    __tablename__ = "networks"
    watch_kind = "network"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    revision_number: Mapped[int] = mapped_column(BigInteger, default=0)
    project_id: Mapped[str] = mapped_column(UUID, index=True)
    name: Mapped[str] = mapped_column(NAME, default="")
    description: Mapped[str] = mapped_column(NAME, default="")
    admin_state_up: Mapped[bool] = mapped_column(default=True)
    shared: Mapped[bool] = mapped_column(default=False)
    external: Mapped[bool] = mapped_column(default=False)
    mtu: Mapped[int] = mapped_column(default=1500)
    port_security_enabled: Mapped[bool] = mapped_column(default=True)
    dns_domain: Mapped[str] = mapped_column(NAME, default="")
    provider_network_type: Mapped[str] = mapped_column(String(32), default="local")
    provider_physical_network: Mapped[str | None] = mapped_column(NAME)
    provider_segmentation_id: Mapped[int | None]
    tags: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    subnets: Mapped[list[Subnet]] = relationship(back_populates="network", order_by="Subnet.created_at")


class Subnet(Watched, Base):
    __tablename__ = "subnets"
    watch_kind = "subnet"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    revision_number: Mapped[int] = mapped_column(BigInteger, default=0)
    network_id: Mapped[str] = mapped_column(ForeignKey("networks.id"), index=True)
    project_id: Mapped[str] = mapped_column(UUID, index=True)
    name: Mapped[str] = mapped_column(NAME, default="")
    description: Mapped[str] = mapped_column(NAME, default="")
    ip_version: Mapped[int]
    cidr: Mapped[str] = mapped_column(String(64))
    gateway_ip: Mapped[str | None] = mapped_column(String(64))
    enable_dhcp: Mapped[bool] = mapped_column(default=True)
    ipv6_ra_mode: Mapped[str | None] = mapped_column(String(32))
    ipv6_address_mode: Mapped[str | None] = mapped_column(String(32))
    allocation_pools: Mapped[list[Any]]
    """[{"start": ip, "end": ip}]"""
    dns_nameservers: Mapped[list[Any]] = mapped_column(default=list)
    host_routes: Mapped[list[Any]] = mapped_column(default=list)
    """[{"destination": cidr, "nexthop": ip}]"""
    tags: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    network: Mapped[Network] = relationship(back_populates="subnets")

    def watched(self) -> Iterator[tuple[str, str]]:
        yield "subnet", self.id
        yield ADDRESSING, self.network_id or self.network.id


class Port(Watched, Base):
    __tablename__ = "ports"
    __table_args__ = (
        UniqueConstraint("network_id", "mac_address"),
        Index("ix_dhcp_ports", "network_id", sqlite_where=_IS_DHCP, postgresql_where=_IS_DHCP),
    )
    watch_kind = "port"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    revision_number: Mapped[int] = mapped_column(BigInteger, default=0)
    network_id: Mapped[str] = mapped_column(ForeignKey("networks.id"), index=True)
    project_id: Mapped[str] = mapped_column(UUID, index=True)
    name: Mapped[str] = mapped_column(NAME, default="")
    description: Mapped[str] = mapped_column(NAME, default="")
    mac_address: Mapped[str] = mapped_column(String(17))
    admin_state_up: Mapped[bool] = mapped_column(default=True)
    status: Mapped[str] = mapped_column(String(16), default="DOWN")
    device_id: Mapped[str] = mapped_column(String(255), default="", index=True)
    device_owner: Mapped[str] = mapped_column(String(255), default="")
    host: Mapped[str] = mapped_column(NAME, default="")
    vnic_type: Mapped[str] = mapped_column(String(64), default="normal")
    binding_profile: Mapped[dict[str, Any]] = mapped_column(default=dict)
    port_security_enabled: Mapped[bool] = mapped_column(default=True)
    allowed_address_pairs: Mapped[list[Any]] = mapped_column(default=list)
    security_group_ids: Mapped[list[Any]] = mapped_column(default=list)
    extra_dhcp_opts: Mapped[list[Any]] = mapped_column(default=list)
    dns_name: Mapped[str] = mapped_column(NAME, default="")
    provisioning: Mapped[list[Any]] = mapped_column(default=list)
    """Entities (`dhcp`, `l2`) that have not reported yet; the port is ACTIVE when it is empty and it is bound."""
    tags: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    fixed_ips: Mapped[list[IPAllocation]] = relationship(
        back_populates="port", cascade="all, delete-orphan", order_by="IPAllocation.position"
    )

    def watched(self) -> Iterator[tuple[str, str]]:
        yield "port", self.id
        owners = inspect_row(self).attrs.device_owner.history
        if DEVICE_OWNER_DHCP in {self.device_owner, *(owners.deleted or ())}:
            yield ADDRESSING, self.network_id


def address_sort_key(address: str) -> str:
    """`192.168.40.1` → `000000000000000000000000c0a82801`."""
    return f"{int(ip_address(address)):032x}"


def _sort_key_of_row(context: Any) -> str:
    return address_sort_key(context.get_current_parameters()["ip_address"])


class IPAllocation(Base):
    """One fixed IP. The unique constraint is what makes it impossible to hand an address out twice."""

    __tablename__ = "ip_allocations"
    __table_args__ = (
        UniqueConstraint("subnet_id", "ip_address"),
        Index("ix_ip_network", "ip_address", "network_id"),
        Index("ix_ip_subnet_order", "subnet_id", "sort_key"),
    )
    port_id: Mapped[str] = mapped_column(ForeignKey("ports.id", ondelete="CASCADE"), primary_key=True)
    ip_address: Mapped[str] = mapped_column(String(64), primary_key=True)
    subnet_id: Mapped[str] = mapped_column(ForeignKey("subnets.id"), index=True)
    network_id: Mapped[str] = mapped_column(UUID)
    sort_key: Mapped[str] = mapped_column(String(32), default=_sort_key_of_row)
    """The address as 32 hexadecimal digits: text that sorts as the address does, so that free ones are found fast."""
    position: Mapped[int] = mapped_column(default=0)
    port: Mapped[Port] = relationship(back_populates="fixed_ips")

    def watched(self) -> Iterator[tuple[str, str]]:
        yield "port", self.port_id or self.port.id
        if getattr(self.port, "device_owner", None) == DEVICE_OWNER_DHCP:
            yield ADDRESSING, self.network_id


class Router(Watched, Base):
    """Its interfaces are ports (`network:router_interface`, `network:router_gateway`) whose device_id is its id."""

    __tablename__ = "routers"
    watch_kind = "router"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    revision_number: Mapped[int] = mapped_column(BigInteger, default=0)
    project_id: Mapped[str] = mapped_column(UUID, index=True)
    name: Mapped[str] = mapped_column(NAME, default="")
    description: Mapped[str] = mapped_column(NAME, default="")
    admin_state_up: Mapped[bool] = mapped_column(default=True)
    external_network_id: Mapped[str | None] = mapped_column(ForeignKey("networks.id"))
    enable_snat: Mapped[bool] = mapped_column(default=True)
    routes: Mapped[list[Any]] = mapped_column(default=list)
    """[{"destination": cidr, "nexthop": ip}]"""
    tags: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class FloatingIP(Watched, Base):
    """Its address is held by a port of its own (`network:floatingip`) on the external network."""

    __tablename__ = "floating_ips"
    watch_kind = "floatingip"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    revision_number: Mapped[int] = mapped_column(BigInteger, default=0)
    project_id: Mapped[str] = mapped_column(UUID, index=True)
    description: Mapped[str] = mapped_column(NAME, default="")
    floating_network_id: Mapped[str] = mapped_column(ForeignKey("networks.id"), index=True)
    floating_ip_address: Mapped[str] = mapped_column(String(64))
    floating_port_id: Mapped[str] = mapped_column(UUID)
    port_id: Mapped[str | None] = mapped_column(ForeignKey("ports.id"), index=True)
    fixed_ip_address: Mapped[str | None] = mapped_column(String(64))
    router_id: Mapped[str | None] = mapped_column(UUID, index=True)
    tags: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    def watched(self) -> Iterator[tuple[str, str]]:
        yield "floatingip", self.id
        history = inspect_row(self).attrs.port_id.history
        for port_id in {self.port_id, *(history.deleted or ())} - {None}:
            yield "port", port_id


class SecurityGroup(Base):
    __tablename__ = "security_groups"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    project_id: Mapped[str] = mapped_column(UUID, index=True)
    name: Mapped[str] = mapped_column(NAME)
    description: Mapped[str] = mapped_column(NAME, default="")
    tags: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    def watched(self) -> Iterator[tuple[str, str]]:
        """By the metadata API, whose documents name groups; agents do not hear of this kind."""
        yield "security_group", self.id


class Agent(Base):
    """One row a program and host; alive when its heartbeat is younger than agent_down_time."""

    __tablename__ = "agents"
    __table_args__ = (UniqueConstraint("binary", "host"),)
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    binary: Mapped[str] = mapped_column(NAME)
    """`openimds-dhcp-agent`, `openimds-l3-agent`, `openimds-metadata-agent`, `openimds-compute-agent`."""
    agent_type: Mapped[str] = mapped_column(NAME)
    """Neutron's words: `DHCP agent`, `L3 agent`, `Metadata agent`; `Compute agent` for ours."""
    host: Mapped[str] = mapped_column(NAME)
    configurations: Mapped[dict[str, Any]]
    """What the agent says of itself, settings and last round, as the status page and `openimds status` show it."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]


# Compute ----------------------------------------------------------------------------------------------------------


class Flavor(Base):
    __tablename__ = "flavors"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, unique=True)
    ram_mib: Mapped[int]
    vcpus: Mapped[int]
    disk_gib: Mapped[int]
    ephemeral_gib: Mapped[int] = mapped_column(default=0)
    swap_mib: Mapped[int] = mapped_column(default=0)
    is_public: Mapped[bool] = mapped_column(default=True)
    extra_specs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    description: Mapped[str | None] = mapped_column(Text)


class Keypair(Base):
    __tablename__ = "keypairs"
    user_id: Mapped[str] = mapped_column(UUID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    type: Mapped[str] = mapped_column(String(8), default="ssh")
    public_key: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]


class Ec2Id(Base):
    """nova's s3_images and instance id mappings: a small number for each uuid, for the life of the object.

    `i-0000002a` is number 42 of kind `instance`; `ami-`, `aki-` and `ari-` share the numbers of kind `image`.
    """

    __tablename__ = "ec2_ids"
    __table_args__ = (UniqueConstraint("kind", "object_id"),)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[str] = mapped_column(UUID)


class Server(Watched, Base):
    """What a person asked for, and what became of it. The columns that only documents read are nova's own shapes."""

    __tablename__ = "servers"
    watch_kind = "server"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    revision_number: Mapped[int] = mapped_column(BigInteger, default=0)
    project_id: Mapped[str] = mapped_column(UUID, index=True)
    user_id: Mapped[str] = mapped_column(UUID)
    name: Mapped[str] = mapped_column(NAME)
    hostname: Mapped[str] = mapped_column(NAME)
    description: Mapped[str | None] = mapped_column(NAME)
    image_id: Mapped[str | None] = mapped_column(UUID)
    flavor: Mapped[dict[str, Any]]
    """The flavor as it was at creation: id, name, ram, vcpus, disk, ephemeral, swap, extra_specs."""
    availability_zone: Mapped[str | None] = mapped_column(NAME)
    """Its host's; before it has one, what was asked for."""
    pinned_zone: Mapped[str | None] = mapped_column(NAME)
    """The availability zone that was asked for, if one was."""
    key_name: Mapped[str | None] = mapped_column(NAME)
    key_type: Mapped[str | None] = mapped_column(String(8))
    public_key: Mapped[str | None] = mapped_column(Text)
    user_data: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The bytes, decoded."""
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    personality: Mapped[list[Any]] = mapped_column(default=list)
    """[{"path": …, "contents": base64}]"""
    security_groups: Mapped[list[Any]] = mapped_column(default=list)
    """[{"id": …, "name": …}] as given at creation."""
    config_drive: Mapped[bool] = mapped_column(default=False)
    launch_index: Mapped[int] = mapped_column(default=0)
    reservation_id: Mapped[str | None] = mapped_column(String(64))
    root_device_name: Mapped[str | None] = mapped_column(String(64))
    kernel_id: Mapped[str | None] = mapped_column(UUID)
    ramdisk_id: Mapped[str | None] = mapped_column(UUID)
    block_devices: Mapped[list[Any]] = mapped_column(default=list)
    """nova's block device mappings: source_type, destination_type, device_name, guest_format, boot_index, image_id …"""
    devices: Mapped[list[Any]] = mapped_column(default=list)
    """Tagged NICs and disks: [{"type", "bus", "address", "mac" | "serial"/"path", "tags", "vlan", "vf_trusted"}]"""
    dedicated_cpus: Mapped[list[Any]] = mapped_column(default=list)
    nic_order: Mapped[list[Any]] = mapped_column(default=list)
    """Port ids in the order of the NICs."""
    ports_of_server: Mapped[list[Any]] = mapped_column(default=list)
    """Port ids that the server's creation made, and its deletion deletes (ports given by the user stay)."""
    nic_tags: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """port id → tag"""
    access_ip_v4: Mapped[str | None] = mapped_column(String(64))
    access_ip_v6: Mapped[str | None] = mapped_column(String(64))
    tags: Mapped[list[Any]] = mapped_column(default=list)
    locked: Mapped[bool] = mapped_column(default=False)
    host: Mapped[str] = mapped_column(NAME, default="")
    driver: Mapped[str] = mapped_column(String(16), default="netns")
    status: Mapped[str] = mapped_column(String(32), default="BUILD")
    """Nova's: BUILD, ACTIVE, REBOOT, HARD_REBOOT, REBUILD, SHUTOFF, ERROR."""
    task_state: Mapped[str | None] = mapped_column(String(64))
    wanted_power_state: Mapped[str] = mapped_column(String(16), default="running")
    boot_generation: Mapped[int] = mapped_column(default=1)
    fault: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """{"code": 500, "created": …, "message": …}"""
    imported_document: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """Set by `openimds import instances`: network_info and ids as given, where the store holds no ports for it."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    launched_at: Mapped[datetime | None]


class ServerPassword(Base):
    """The admin password that the guest posted, once. A table of its own: the primary key decides who was first."""

    __tablename__ = "server_passwords"
    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True)
    password: Mapped[str] = mapped_column(Text)

    def watched(self) -> Iterator[tuple[str, str]]:
        yield "server", self.server_id


class ServerConsole(Base):
    """The tail of a server's console, pushed by its compute agent."""

    __tablename__ = "server_consoles"
    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True)
    output: Mapped[str] = mapped_column(Text)


class ServerAction(Base):
    """nova's instance actions: one row a request."""

    __tablename__ = "server_actions"
    request_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    server_id: Mapped[str] = mapped_column(UUID, primary_key=True)
    action: Mapped[str] = mapped_column(String(32))
    user_id: Mapped[str] = mapped_column(UUID)
    project_id: Mapped[str] = mapped_column(UUID)
    started_at: Mapped[datetime]


# Image ------------------------------------------------------------------------------------------------------------


class Image(Base):
    """The bytes are a file `images/<id>` in the state folder."""

    __tablename__ = "images"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    owner: Mapped[str] = mapped_column(UUID, index=True)
    name: Mapped[str | None] = mapped_column(NAME)
    status: Mapped[str] = mapped_column(String(16), default="queued")
    visibility: Mapped[str] = mapped_column(String(16), default="shared")
    container_format: Mapped[str | None] = mapped_column(String(16))
    disk_format: Mapped[str | None] = mapped_column(String(16))
    min_disk_gib: Mapped[int] = mapped_column(default=0)
    min_ram_mib: Mapped[int] = mapped_column(default=0)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    checksum: Mapped[str | None] = mapped_column(String(32))
    hash_algo: Mapped[str | None] = mapped_column(String(16))
    hash_value: Mapped[str | None] = mapped_column(String(128))
    protected: Mapped[bool] = mapped_column(default=False)
    hidden: Mapped[bool] = mapped_column(default=False)
    properties: Mapped[dict[str, Any]] = mapped_column(default=dict)
    tags: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
