"""How much of each kind a project may have. Read-only: the limits are the program's, alike for all projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.errors import QuotaExceeded
from openimds.store.models.network import Port, SecurityGroup
from openimds.store.models.networks import Network, Subnet
from openimds.store.models.routers import FloatingIP, Router

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
