"""Neutron's networks and their subnets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from openimds.store.change_kinds import ADDRESSING
from openimds.store.models.base import NAME, UUID, Base, Watched


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
