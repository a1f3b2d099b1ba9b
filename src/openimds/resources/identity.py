"""Users, projects, roles and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

DOMAIN_ID = "default"
DOMAIN_NAME = "Default"
"""The name of the only domain."""

SYSTEM_TARGET = "system"
"""Target of a role assignment on the whole system, in place of a project's id."""

IMPLIED_ROLES = {"admin": ("member", "reader"), "member": ("reader",)}
"""Role → roles that it includes, as Keystone's bootstrap creates them."""


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
    """The scope of a token: one project, the system, or neither (unscoped)."""

    project_id: str | None = None
    system: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """The content of a token. It does not contain roles: they are read from the store at each use."""

    user_id: str
    scope: TokenScope
    methods: tuple[str, ...]
    audit_ids: tuple[str, ...]
    """The token's own audit id, then those of the tokens that it was issued from, the parent first."""
    issued_at: datetime
    expires_at: datetime
    """`issued_at` and `expires_at` are UTC without a zone."""


@dataclass(frozen=True, slots=True)
class LoginUser:
    """The user that a login names, before its password is checked."""

    id: str = ""
    """Empty if the user does not exist."""
    verified: bool = False
    """True if the same password was verified shortly before and the user is enabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessInfo:
    """The user, project and current roles of a scope."""

    user: User
    project: Project | None
    system: bool
    roles: tuple[Role, ...]

    @property
    def role_names(self) -> frozenset[str]:
        return frozenset(role.name for role in self.roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A role of a user on a project, or on the system if `project` is None."""

    user: User
    role: Role
    project: Project | None
