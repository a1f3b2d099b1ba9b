"""Tables of the network service: networks, subnets, ports and their fixed IPs, security groups, routers, floating IPs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy import inspect as inspect_row
from sqlalchemy.orm import Mapped, mapped_column, relationship

from openimds.resources.network import DEVICE_OWNER_DHCP
from openimds.store.change_kinds import ADDRESSING
from openimds.store.models.base import NAME, UUID, Base, Watched

_IS_DHCP = text(f"attached_owner = '{DEVICE_OWNER_DHCP}'")

CANONICAL_DNS_NAME = "rtrim(lower(dns_name), '.')"
"""A port's DNS name as resolvers compare it, in SQL. An index has this expression, so that queries use the same text."""


class Port(Watched, Base):
    __tablename__ = "ports"
    __table_args__ = (
        UniqueConstraint("network_id", "mac_address"),
        Index("ix_dhcp_ports", "network_id", sqlite_where=_IS_DHCP, postgresql_where=_IS_DHCP),
        Index("ix_ports_dns_name", "network_id", text(CANONICAL_DNS_NAME), "project_id"),
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
    """Text of the port's owner, for display and filters only. `attached_id` is the recorded attachment."""
    device_owner: Mapped[str] = mapped_column(String(255), default="")
    """Text of the port's owner, like `device_id`."""
    attached_owner: Mapped[str] = mapped_column(String(255), default="", server_default="")
    """The recorded attachment (resources.network.Attachment). Only `attach_port` and `detach_port` of
    store/network/ports.py write it."""
    attached_id: Mapped[str] = mapped_column(String(255), default="", server_default="", index=True)
    host: Mapped[str] = mapped_column(NAME, default="")
    vnic_type: Mapped[str] = mapped_column(String(64), default="normal")
    binding_profile: Mapped[dict[str, Any]] = mapped_column(default=dict)
    port_security_enabled: Mapped[bool] = mapped_column(default=True)
    allowed_address_pairs: Mapped[list[Any]] = mapped_column(default=list)
    security_group_ids: Mapped[list[Any]] = mapped_column(default=list)
    extra_dhcp_opts: Mapped[list[Any]] = mapped_column(default=list)
    dns_name: Mapped[str] = mapped_column(NAME, default="")
    binding_generation: Mapped[int] = mapped_column(default=0, server_default="0")
    """Counts how often `provisioning` was reset. Reports of agents contain it."""
    provisioning: Mapped[list[Any]] = mapped_column(default=list)
    """Entities (`dhcp`, `l2`) that have not reported yet. A bound port is ACTIVE when the list is empty."""
    tags: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    fixed_ips: Mapped[list[IPAllocation]] = relationship(
        back_populates="port", cascade="all, delete-orphan", order_by="IPAllocation.position"
    )

    def watched(self) -> Iterator[tuple[str, str]]:
        yield "port", self.id
        owners = inspect_row(self).attrs.attached_owner.history
        if DEVICE_OWNER_DHCP in {self.attached_owner, *(owners.deleted or ())}:
            yield ADDRESSING, self.network_id


def address_sort_key(address: str) -> str:
    """`192.168.40.1` → `000000000000000000000000c0a82801`."""
    return f"{int(ip_address(address)):032x}"


def _sort_key_of_row(context: Any) -> str:
    return address_sort_key(context.get_current_parameters()["ip_address"])


class IPAllocation(Base):
    """A fixed IP. The unique constraint prevents that two ports get the same address."""

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
    """The address as 32 hexadecimal digits, which sort like addresses. The search for free addresses uses this order."""
    position: Mapped[int] = mapped_column(default=0)
    port: Mapped[Port] = relationship(back_populates="fixed_ips")

    def watched(self) -> Iterator[tuple[str, str]]:
        yield "port", self.port_id or self.port.id
        if getattr(self.port, "attached_owner", None) == DEVICE_OWNER_DHCP:
            yield ADDRESSING, self.network_id


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
        """Metadata documents contain the names of groups. Agents do not watch this kind."""
        yield "security_group", self.id


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


class Router(Watched, Base):
    """A router. The recorded attachments of its interfaces name it (`network:router_interface`, `network:router_gateway`)."""

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
    """A floating IP. A port of its own (`network:floatingip`) on the external network reserves the address."""

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
