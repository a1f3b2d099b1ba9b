"""Access of callers: the rows that they may see and change, the projects of new rows, and quotas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, Forbidden, NotFound, QuotaExceeded
from openimds.store.models.base import Agent
from openimds.store.models.network import FloatingIP, Network, Port, Router, SecurityGroup, Subnet

Row = TypeVar("Row", Network, Subnet, Port, Router, FloatingIP, SecurityGroup)

NAMES: dict[type[Any], str] = {
    Network: "Network",
    Subnet: "Subnet",
    Port: "Port",
    Router: "Router",
    FloatingIP: "Floating IP",
    SecurityGroup: "Security group",
    Agent: "Agent",
}


def visible_to(caller: Caller, model: type[Any]) -> sa.ColumnElement[bool]:
    """The SQL condition for rows that the caller may see: those of its project, and shared ones."""
    if caller.is_admin:
        return sa.true()
    own = sa.and_(model.project_id == caller.project_id, model.project_id != "")
    if model is Network:
        return sa.or_(own, Network.shared, Network.external)
    if model is Subnet:
        open_networks = sa.select(Network.id).where(sa.or_(Network.shared, Network.external))
        return sa.or_(own, Subnet.network_id.in_(open_networks))
    if model is Port:  # the owner of a network sees all its ports
        own_networks = sa.select(Network.id).where(Network.project_id == caller.project_id)
        return sa.or_(own, Port.network_id.in_(own_networks))
    return own


def get_visible(session: Session, caller: Caller, model: type[Row], row_id: str) -> Row:
    """The row. Raises NotFound if the caller may not see it."""
    row = session.scalar(sa.select(model).where(model.id == row_id, visible_to(caller, model)))
    if row is None:
        raise not_found(model, row_id)
    return row


def get_visible_once(session: Session, caller: Caller, model: type[Row], row_id: str) -> Row:
    """`get_visible`, with one query in a transaction for all items of a bulk request.

    The session keeps the row, and its loaded relationships with it, until the end of the transaction.
    """
    found: dict[tuple[type[Any], str, Caller], Any] = session.info.setdefault("visible", {})
    key = (model, row_id, caller)
    if key not in found:
        found[key] = get_visible(session, caller, model, row_id)
    row: Row = found[key]
    return row


def get_owned(session: Session, caller: Caller, model: type[Row], row_id: str, action: str) -> Row:
    """The row. Raises NotFound if the caller may not see it, and Forbidden if the policy does not permit the action."""
    row = get_visible(session, caller, model, row_id)
    more = _more_properties(session, row)
    if not caller.may(action, row.project_id, more):
        if not caller.owns(row.project_id):
            raise _belongs_to_another(model, row_id)
        raise _not_authorized(action)
    return row


def _more_properties(session: Session, row: Any) -> dict[str, Any]:
    return network_target(session.get_one(Network, row.network_id)) if isinstance(row, Port) else {}


def network_target(network: Network) -> dict[str, Any]:
    """The properties of a port's network that the rules of ports refer to."""
    return {
        "network:project_id": network.project_id,
        "network:tenant_id": network.project_id,
        "network:shared": network.shared,
    }


def _not_authorized(action: str) -> Forbidden:
    return Forbidden(f"Policy doesn't allow {action} to be performed.", kind="PolicyNotAuthorized")


def _belongs_to_another(model: type[Any], row_id: str) -> Forbidden:
    return Forbidden(
        f"{NAMES[model]} {row_id} belongs to another project: it may be used, not changed.", kind="PolicyNotAuthorized"
    )


def not_found(model: type[Any], row_id: str) -> NotFound:
    """Neutron's error: kind `PortNotFound`, text `Port 7… could not be found.`"""
    name = NAMES[model]
    kind = "".join(word[0].upper() + word[1:] for word in name.split()) + "NotFound"
    return NotFound(f"{name} {row_id} could not be found.", kind=kind)


def project_for(caller: Caller, attributes: Mapping[str, Any], action: str) -> str:
    """The project of a new resource: the caller's, or the one in an administrator's request. Raises BadRequest, and
    Forbidden if the policy does not permit the action for the project.
    """
    named = attributes.get("project_id") or attributes.get("tenant_id")
    project_id = str(named or caller.project_id)
    if not project_id:
        raise BadRequest(
            "project_id",
            "project_id: the token has no project scope, so the request must contain project_id.",
            kind="BadRequest",
        )
    if caller.may(action, project_id):
        return project_id
    if caller.owns(project_id):
        raise _not_authorized(action)
    raise Forbidden(
        "project_id: only an administrator may create resources of another project.", kind="PolicyNotAuthorized"
    )


def check_attributes(
    caller: Caller, action: str, names: Iterable[str], project_id: str, more: Mapping[str, Any] | None = None
) -> None:
    """Raises Forbidden if the policy does not permit the caller to set one of the attributes."""
    target = {"project_id": project_id, "tenant_id": project_id, **(more or {})}
    forbidden = caller.forbidden_attributes(action, names, target)
    if forbidden:
        raise Forbidden(
            f"{', '.join(forbidden)}: only an administrator may set this: policy doesn't allow {action}:{forbidden[0]} to "
            "be performed.",
            kind="PolicyNotAuthorized",
        )


UNLIMITED_QUOTA = -1

QUOTAS: Mapping[str, int] = {
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
"""Quotas of every project. They stop a script that runs wild and do not divide a cloud. 0 if openimds has no such resource."""

QUOTA_MODELS: Mapping[str, type[Any]] = {
    "network": Network,
    "subnet": Subnet,
    "port": Port,
    "router": Router,
    "floatingip": FloatingIP,
    "security_group": SecurityGroup,
}


def count_used(session: Session, kind: str, project_id: str) -> int:
    """The number of the project's resources of this kind."""
    model = QUOTA_MODELS.get(kind)
    if model is None:
        return 0
    return session.execute(sa.select(sa.func.count()).where(model.project_id == project_id)).scalar_one()


def check_quota(session: Session, kind: str, project_id: str, limits: Mapping[str, int] = QUOTAS) -> None:
    """Checks the quota after a creation, in the same transaction. Raises QuotaExceeded, which rolls it back."""
    limit = limits.get(kind, UNLIMITED_QUOTA)
    if project_id and limit != UNLIMITED_QUOTA and count_used(session, kind, project_id) > limit:
        raise QuotaExceeded(
            f"Quota exceeded for resources: ['{kind}']: at most {limit} in a project.", kind="OverQuota"
        )


def quota_details(session: Session, project_id: str, limits: Mapping[str, int] = QUOTAS) -> dict[str, dict[str, int]]:
    """`{"network": {"limit": 1000, "used": 2, "reserved": 0}, …}`"""
    return {
        kind: {"limit": limit, "used": count_used(session, kind, project_id), "reserved": 0}
        for kind, limit in limits.items()
    }
