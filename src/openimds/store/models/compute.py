"""Tables of the compute service: servers with passwords, consoles and actions; flavors, keypairs, EC2 numbers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from openimds.store.models.base import NAME, UUID, Base, Watched


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
    """Nova's s3_images and instance id mappings: a number for each UUID, for the life of the object.

    `i-0000002a` is number 42 of kind `instance`; `ami-`, `aki-` and `ari-` share the numbers of kind `image`.
    """

    __tablename__ = "ec2_ids"
    __table_args__ = (UniqueConstraint("kind", "object_id"),)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[str] = mapped_column(UUID)


class Server(Watched, Base):
    """A server: its request and its state. Columns that only documents read have Nova's forms."""

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
    """A copy of the flavor at creation: id, name, ram, vcpus, disk, ephemeral, swap, extra_specs."""
    availability_zone: Mapped[str | None] = mapped_column(NAME)
    """The zone of its host, or the requested one before it has a host."""
    pinned_zone: Mapped[str | None] = mapped_column(NAME)
    """The requested availability zone. None if the request named none."""
    key_name: Mapped[str | None] = mapped_column(NAME)
    key_type: Mapped[str | None] = mapped_column(String(8))
    public_key: Mapped[str | None] = mapped_column(Text)
    user_data: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Decoded bytes."""
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    personality: Mapped[list[Any]] = mapped_column(default=list)
    """[{"path": …, "contents": base64}]"""
    security_groups: Mapped[list[Any]] = mapped_column(default=list)
    """[{"id": …, "name": …}] of the request."""
    config_drive: Mapped[bool] = mapped_column(default=False)
    launch_index: Mapped[int] = mapped_column(default=0)
    reservation_id: Mapped[str | None] = mapped_column(String(64))
    root_device_name: Mapped[str | None] = mapped_column(String(64))
    kernel_id: Mapped[str | None] = mapped_column(UUID)
    ramdisk_id: Mapped[str | None] = mapped_column(UUID)
    block_devices: Mapped[list[Any]] = mapped_column(default=list)
    """Nova's block device mappings: source_type, destination_type, device_name, guest_format, boot_index, image_id …"""
    devices: Mapped[list[Any]] = mapped_column(default=list)
    """Tagged NICs and disks: [{"type", "bus", "address", "mac" | "serial"/"path", "tags", "vlan", "vf_trusted"}]"""
    dedicated_cpus: Mapped[list[Any]] = mapped_column(default=list)
    nic_order: Mapped[list[Any]] = mapped_column(default=list)
    """Port ids in the order of the NICs."""
    ports_of_server: Mapped[list[Any]] = mapped_column(default=list)
    """Ids of the ports that were created for the server and are deleted with it. Ports of the request stay."""
    nic_tags: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """port id → tag"""
    access_ip_v4: Mapped[str | None] = mapped_column(String(64))
    access_ip_v6: Mapped[str | None] = mapped_column(String(64))
    tags: Mapped[list[Any]] = mapped_column(default=list)
    locked: Mapped[bool] = mapped_column(default=False)
    locked_by: Mapped[str | None] = mapped_column(String(8))
    """`owner`: a caller of the server's project. `admin`: an administrator of another one."""
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
    """The network_info and the EC2 ids of an imported server without ports in the store."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    launched_at: Mapped[datetime | None]


class ServerPassword(Base):
    """The admin password that a guest stored. In a table of its own the primary key permits one only."""

    __tablename__ = "server_passwords"
    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True)
    password: Mapped[str] = mapped_column(Text)

    def watched(self) -> Iterator[tuple[str, str]]:
        yield "server", self.server_id


class ServerConsole(Base):
    """The tail of a server's console, which its compute agent uploads."""

    __tablename__ = "server_consoles"
    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True)
    output: Mapped[str] = mapped_column(Text)


class ServerAction(Base):
    """Nova's instance actions, with one row for each request."""

    __tablename__ = "server_actions"
    request_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    server_id: Mapped[str] = mapped_column(UUID, primary_key=True)
    action: Mapped[str] = mapped_column(String(32))
    user_id: Mapped[str] = mapped_column(UUID)
    project_id: Mapped[str] = mapped_column(UUID)
    started_at: Mapped[datetime]
