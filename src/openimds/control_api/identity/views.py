"""Converts value objects of the identity service to the JSON of Keystone's API. The functions are pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from openimds.resources.identity import DOMAIN_ID, DOMAIN_NAME, AccessInfo, Assignment, Project, Role, Token, User

DOMAIN_BRIEF = {"id": DOMAIN_ID, "name": DOMAIN_NAME}


def domain(public_url: str) -> dict[str, Any]:
    return {
        "id": DOMAIN_ID,
        "name": DOMAIN_NAME,
        "description": "The default domain",
        "enabled": True,
        "tags": [],
        "options": {},
        "links": _self(public_url, "domains", DOMAIN_ID),
    }


def project(value: Project, public_url: str) -> dict[str, Any]:
    return {
        "id": value.id,
        "name": value.name,
        "description": value.description,
        "enabled": value.enabled,
        "domain_id": value.domain_id,
        "parent_id": value.domain_id,
        "is_domain": False,
        "tags": [],
        "options": {},
        "links": _self(public_url, "projects", value.id),
    }


def user(value: User, public_url: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": value.id,
        "name": value.name,
        "enabled": value.enabled,
        "description": value.description,
        "domain_id": value.domain_id,
        "password_expires_at": None,
        "options": {},
        "links": _self(public_url, "users", value.id),
    }
    if value.email is not None:
        shown["email"] = value.email
    if value.default_project_id is not None:
        shown["default_project_id"] = value.default_project_id
    return shown


def role(value: Role, public_url: str) -> dict[str, Any]:
    return {
        "id": value.id,
        "name": value.name,
        "domain_id": None,
        "description": None,
        "options": {},
        "links": _self(public_url, "roles", value.id),
    }


def assignment(value: Assignment, public_url: str, *, names: bool) -> dict[str, Any]:
    """One role assignment. If `names` is True, it includes names beside the ids (`include_names`)."""
    if value.project:
        scope: dict[str, Any] = {"project": {"id": value.project.id}}
        where = f"projects/{value.project.id}"
    else:
        scope, where = {"system": {"all": True}}, "system"
    shown: dict[str, Any] = {"role": {"id": value.role.id}, "user": {"id": value.user.id}, "scope": scope}
    shown["links"] = {"assignment": f"{public_url}/v3/{where}/users/{value.user.id}/roles/{value.role.id}"}
    if names:
        shown["role"]["name"] = value.role.name
        shown["user"] |= {"name": value.user.name, "domain": DOMAIN_BRIEF}
        if value.project:
            scope["project"] |= {"name": value.project.name, "domain": DOMAIN_BRIEF}
    return shown


def token(value: Token, access_info: AccessInfo, catalog: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The body of a response about a token. The token itself is in a header."""
    shown: dict[str, Any] = {
        "methods": list(value.methods),
        "audit_ids": [
            *value.audit_ids[:1],
            *value.audit_ids[1:][-1:],
        ],  # the token's own audit id and the first of the chain, as in Keystone
        "issued_at": moment(value.issued_at),
        "expires_at": moment(value.expires_at),
        "user": {
            "id": access_info.user.id,
            "name": access_info.user.name,
            "domain": DOMAIN_BRIEF,
            "password_expires_at": None,
        },
    }
    if access_info.project or access_info.system:
        shown["roles"] = [{"id": held.id, "name": held.name} for held in access_info.roles]
        shown["catalog"] = list(catalog)
    if access_info.project:
        shown["project"] = {"id": access_info.project.id, "name": access_info.project.name, "domain": DOMAIN_BRIEF}
        shown["is_domain"] = False
    if access_info.system:
        shown["system"] = {"all": True}
    return shown


def moment(at: datetime) -> str:
    """`2026-11-21T10:00:00.000000Z`"""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _self(public_url: str, plural: str, item_id: str) -> dict[str, str]:
    return {"self": f"{public_url}/v3/{plural}/{item_id}"}
