"""Security groups. Ports refer to them, and documents contain their names. Rules are not enforced and cannot be created."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.errors import Conflict
from openimds.store.models.network import Port, SecurityGroup
from openimds.store.network.access import get_owned, project_for

DEFAULT = "default"


def ensure_default(session: Session, project_id: str, now: datetime) -> SecurityGroup:
    """The project's group `default`, which is created if it is missing, as in Neutron.

    It can be neither renamed nor deleted, so a transaction reads it once.
    """
    found: dict[str, SecurityGroup] = session.info.setdefault("default groups", {})
    if project_id not in found:
        found[project_id] = _find_or_create_default(session, project_id, now)
    return found[project_id]


def _find_or_create_default(session: Session, project_id: str, now: datetime) -> SecurityGroup:
    group = session.scalar(
        sa.select(SecurityGroup).where(SecurityGroup.project_id == project_id, SecurityGroup.name == DEFAULT).limit(1)
    )
    if group is None:
        group = _new(project_id, {"name": DEFAULT, "description": "Default security group"}, now)
        session.add(group)
        session.flush()
    return group


def has_default(session: Session, project_id: str) -> bool:
    """Whether the project has its default group."""
    known = sa.select(SecurityGroup.id).where(SecurityGroup.project_id == project_id, SecurityGroup.name == DEFAULT)
    return session.scalar(known.limit(1)) is not None


def create(session: Session, caller: Caller, attributes: Mapping[str, Any], now: datetime) -> SecurityGroup:
    """Creates a group. Raises Conflict for a second `default`."""
    project_id = project_for(caller, attributes, "create_security_group")
    ensure_default(session, project_id, now)
    _refuse_default(attributes.get("name") or "")
    group = _new(project_id, attributes, now)
    session.add(group)
    session.flush()
    return group


def update(
    session: Session, caller: Caller, group_id: str, attributes: Mapping[str, Any], now: datetime
) -> SecurityGroup:
    """Changes name and description. Raises NotFound, and Conflict for a new name of `default` or for the name `default`."""
    group = get_owned(session, caller, SecurityGroup, group_id, "update_security_group")
    name = attributes.get("name", group.name)
    if group.name == DEFAULT and name != DEFAULT:
        raise Conflict("Updating default security group not allowed.", kind="SecurityGroupCannotUpdateDefault")
    if name != group.name:
        _refuse_default(name)
    group.name = name
    group.description = attributes.get("description", group.description) or ""
    group.updated_at = now
    session.flush()
    return group


def delete(session: Session, caller: Caller, group_id: str, now: datetime) -> None:
    """Deletes a group. Raises NotFound, and Conflict for the default group and for the group of a port."""
    del now
    group = get_owned(session, caller, SecurityGroup, group_id, "delete_security_group")
    if group.name == DEFAULT and not caller.is_admin:
        raise Conflict(
            "Insufficient rights for removing default security group.", kind="SecurityGroupCannotRemoveDefault"
        )
    ports = session.execute(
        sa.select(Port.id, Port.security_group_ids).where(sa.cast(Port.security_group_ids, sa.Text).contains(group_id))
    )
    if any(group_id in row.security_group_ids for row in ports):
        raise Conflict(f"Security Group {group_id} in use.", kind="SecurityGroupInUse")
    session.delete(group)
    session.flush()


def _refuse_default(name: str) -> None:
    """Raises Conflict for `default` in any case, as Neutron."""
    if name.lower() == DEFAULT:
        raise Conflict("Default security group already exists.", kind="SecurityGroupDefaultAlreadyExists")


def _new(project_id: str, attributes: Mapping[str, Any], now: datetime) -> SecurityGroup:
    return SecurityGroup(
        id=str(uuid.uuid4()),
        project_id=project_id,
        name=attributes.get("name") or "",
        description=attributes.get("description") or "",
        tags=list(attributes.get("tags") or ()),
        created_at=now,
        updated_at=now,
    )
