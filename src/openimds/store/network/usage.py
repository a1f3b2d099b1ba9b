"""How full networks are (network-ip-availabilities).

How much of each kind a project may have. Read-only: the limits are the program's, alike for all projects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from openimds.resources.caller import Caller
from openimds.resources.errors import Forbidden, QuotaExceeded
from openimds.resources.query import ListQuery
from openimds.store.models.network import FloatingIP, IPAllocation, Network, Port, Router, SecurityGroup, Subnet
from openimds.store.network import ip_math, ipam
from openimds.store.network.access import get_visible


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
    return _network(session, get_visible(session, caller, Network, network_id), set())


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


UNLIMITED = -1

LIMITS: Mapping[str, int] = {
    "network": 1000,
    "subnet": 1000,
    "port": 50000,
    "router": 1000,
    "floatingip": 5000,
    "security_group": 1000,
    "security_group_rule": 0,
    "subnetpool": 0,
    "rbac_policy": 0,
    "trunk": 0,
}
"""Against a script that has gone wild, not to share out a cloud. 0: openimds has no such thing."""

MODELS: Mapping[str, type[Any]] = {
    "network": Network,
    "subnet": Subnet,
    "port": Port,
    "router": Router,
    "floatingip": FloatingIP,
    "security_group": SecurityGroup,
}


def used(session: Session, kind: str, project_id: str) -> int:
    """How many a project has."""
    model = MODELS.get(kind)
    if model is None:
        return 0
    return session.execute(sa.select(sa.func.count()).where(model.project_id == project_id)).scalar_one()


def check(session: Session, kind: str, project_id: str, limits: Mapping[str, int] = LIMITS) -> None:
    """After the creation, in its transaction. Raises QuotaExceeded, which undoes it."""
    limit = limits.get(kind, UNLIMITED)
    if project_id and limit != UNLIMITED and used(session, kind, project_id) > limit:
        raise QuotaExceeded(
            f"Quota exceeded for resources: ['{kind}']: at most {limit} in a project.", kind="OverQuota"
        )


def details(session: Session, project_id: str, limits: Mapping[str, int] = LIMITS) -> dict[str, dict[str, int]]:
    """`{"network": {"limit": 1000, "used": 2, "reserved": 0}, …}`"""
    return {
        kind: {"limit": limit, "used": used(session, kind, project_id), "reserved": 0} for kind, limit in limits.items()
    }
