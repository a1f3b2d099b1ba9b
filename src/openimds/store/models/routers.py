"""Neutron's routers and floating IPs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy import inspect as inspect_row
from sqlalchemy.orm import Mapped, mapped_column

from openimds.store.models.base import NAME, UUID, Base, Watched


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
