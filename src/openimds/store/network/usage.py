"""How full networks are (network-ip-availabilities)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from openimds.resources.caller import Caller
from openimds.resources.errors import Forbidden
from openimds.resources.query import ListQuery
from openimds.store.models.network import IPAllocation
from openimds.store.models.networks import Network, Subnet
from openimds.store.network import ip_math, ipam
from openimds.store.network.access import find


def listed(session: Session, caller: Caller, query: ListQuery) -> list[dict[str, Any]]:
    """Every network's, to an administrator. Filters: network_id, network_name, project_id, ip_version."""
    _require_operator(caller)
    rows = session.scalars(sa.select(Network).order_by(Network.id).options(selectinload(Network.subnets)))
    versions = {int(value) for value in query.filters.get("ip_version", ()) if value.isdigit()}
    shown = [_network(session, row, versions) for row in rows]
    return [entry for entry in shown if _matches(entry, query)]


def shown(session: Session, caller: Caller, network_id: str) -> dict[str, Any]:
    """Raises NotFound, Forbidden."""
    _require_operator(caller)
    return _network(session, find(session, caller, Network, network_id), set())


def _require_operator(caller: Caller) -> None:
    if not caller.is_admin:
        raise Forbidden("Only an administrator may see how full networks are.", kind="PolicyNotAuthorized")


def _network(session: Session, row: Network, versions: set[int]) -> dict[str, Any]:
    subnets = [_subnet(session, s) for s in row.subnets if not versions or s.ip_version in versions]
    return {
        "network_id": row.id,
        "network_name": row.name,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "total_ips": sum(s["total_ips"] for s in subnets),
        "used_ips": sum(s["used_ips"] for s in subnets),
        "subnet_ip_availability": subnets,
    }


def _subnet(session: Session, row: Subnet) -> dict[str, Any]:
    used = sa.select(sa.func.count()).where(IPAllocation.subnet_id == row.id)
    return {
        "subnet_id": row.id,
        "subnet_name": row.name,
        "cidr": row.cidr,
        "ip_version": row.ip_version,
        "total_ips": ip_math.total(ipam.pools(row)),
        "used_ips": session.execute(used).scalar_one(),
    }


def _matches(entry: dict[str, Any], query: ListQuery) -> bool:
    names = ("network_id", "network_name", "project_id", "tenant_id")
    return all(entry[name] in query.filters[name] for name in names if name in query.filters)
