"""Many rows of one kind → their JSON, with one query for what belongs to all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from openimds.resources.network import DEVICE_OWNER_ROUTER_GATEWAY
from openimds.store.models.network import Port, SecurityGroup
from openimds.store.models.networks import Network, Subnet
from openimds.store.models.routers import FloatingIP, Router
from openimds.store.network.serializers import (
    floating_ip_json,
    network_json,
    port_json,
    router_json,
    security_group_json,
    subnet_json,
)

SIMPLE: Mapping[type[Any], Callable[..., dict[str, Any]]] = {
    Network: network_json,
    Subnet: subnet_json,
    Port: port_json,
    SecurityGroup: security_group_json,
}


def render(session: Session, rows: Sequence[Any], *, is_admin: bool) -> list[dict[str, Any]]:
    """The rows, all of one kind, in their order."""
    if not rows:
        return []
    kind = type(rows[0])
    if kind is Router:
        return _routers(session, rows, is_admin=is_admin)
    if kind is FloatingIP:
        return _floating_ips(session, rows, is_admin=is_admin)
    return [SIMPLE[kind](row, is_admin=is_admin) for row in rows]


MANY = 500
"""Beyond it a list of ids is longer than all databases take in one statement, and the whole table is read instead."""


def _among(column: Any, ids: Sequence[str]) -> sa.ColumnElement[bool]:
    return column.in_(ids) if len(ids) <= MANY else sa.true()


def _routers(session: Session, rows: Sequence[Router], *, is_admin: bool) -> list[dict[str, Any]]:
    gateways = session.scalars(
        sa.select(Port)
        .where(
            Port.attached_owner == DEVICE_OWNER_ROUTER_GATEWAY,
            _among(Port.attached_id, [row.id for row in rows if row.external_network_id]),
        )
        .options(selectinload(Port.fixed_ips))
    )
    by_router = {port.attached_id: port for port in gateways}
    return [router_json(row, by_router.get(row.id), is_admin=is_admin) for row in rows]


def _floating_ips(session: Session, rows: Sequence[FloatingIP], *, is_admin: bool) -> list[dict[str, Any]]:
    wanted = [row.port_id for row in rows if row.port_id]
    ports = session.scalars(sa.select(Port).where(_among(Port.id, wanted)))
    by_id = {port.id: port for port in ports}
    return [floating_ip_json(row, by_id.get(row.port_id or ""), is_admin=is_admin) for row in rows]
