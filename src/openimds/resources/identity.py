"""Who there is: users, projects, roles, and what a token says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

DOMAIN_ID = "default"
DOMAIN_NAME = "Default"
"""The one domain there is."""

SYSTEM_TARGET = "system"
"""Stands in a role assignment where a project's id would: the role holds for the whole system."""

IMPLIED_ROLES = {"admin": ("member", "reader"), "member": ("reader",)}
"""As Keystone's bootstrap has them: whoever has the first has the others."""


@dataclass(frozen=True, slots=True)
class Role:
    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    id: str
    name: str
    enabled: bool = True
    email: str | None = None
    description: str = ""
    default_project_id: str | None = None
    domain_id: str = DOMAIN_ID
    password_changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    id: str
    name: str
    description: str = ""
    enabled: bool = True
    domain_id: str = DOMAIN_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScope:
    """What a token is asked for: one project, the system, or (neither) nothing."""

    project_id: str | None = None
    system: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a token says. It never says which roles: they are looked up whenever it is used."""

    user_id: str
    scope: TokenScope
    methods: tuple[str, ...]
    audit_ids: tuple[str, ...]
    """Its own, then those of the tokens that it was made from, the parent first."""
    issued_at: datetime
    expires_at: datetime
    """Both UTC without zone."""


@dataclass(frozen=True, slots=True)
class LoginUser:
    """The user that a login names, before its password is checked."""

    id: str = ""
    """Empty if there is no such user."""
    verified: bool = False
    """Whether the same password was verified shortly before and the user is enabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessInfo:
    """What a user is, now, within a scope."""

    user: User
    project: Project | None
    system: bool
    roles: tuple[Role, ...]

    @property
    def role_names(self) -> frozenset[str]:
        return frozenset(role.name for role in self.roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A role that a user has on a project or (`project` None) on the system."""

    user: User
    role: Role
    project: Project | None
