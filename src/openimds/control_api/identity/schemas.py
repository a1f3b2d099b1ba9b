"""The bodies that identity's calls take."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Name = Annotated[str, Field(min_length=1, max_length=255)]
Password = Annotated[SecretStr, Field(max_length=4096)]


class Body(BaseModel):
    """Fields that Keystone has and we do not know are passed over, as Keystone itself does for its extra attributes."""

    model_config = ConfigDict(extra="ignore")


class DomainRef(Body):
    id: str | None = None
    name: str | None = None


class PasswordUser(Body):
    id: str | None = None
    name: str | None = None
    domain: DomainRef | None = None
    password: Password


class PasswordMethod(Body):
    user: PasswordUser


class TokenMethod(Body):
    id: SecretStr


class IdentityPart(Body):
    methods: list[str] = Field(min_length=1)
    password: PasswordMethod | None = None
    token: TokenMethod | None = None


class ProjectRef(Body):
    id: str | None = None
    name: str | None = None
    domain: DomainRef | None = None


class SystemRef(Body):
    all: Literal[True]


class ScopePart(Body):
    project: ProjectRef | None = None
    system: SystemRef | None = None
    domain: DomainRef | None = None
    trust: dict[str, Any] | None = Field(default=None, alias="OS-TRUST:trust")


class AuthPart(Body):
    identity: IdentityPart
    scope: ScopePart | Literal["unscoped"] | dict[str, Any] | None = None


class AuthBody(Body):
    auth: AuthPart


class ProjectFields(Body):
    name: Name
    description: str | None = None
    enabled: bool = True
    domain_id: str | None = None
    is_domain: bool = False
    parent_id: str | None = None


class ProjectCreate(Body):
    project: ProjectFields


class ProjectChanges(Body):
    name: Name | None = None
    description: str | None = None
    enabled: bool | None = None


class ProjectUpdate(Body):
    project: ProjectChanges


class UserFields(Body):
    name: Name
    password: Password | None = None
    description: str | None = None
    email: str | None = Field(default=None, max_length=255)
    enabled: bool = True
    default_project_id: str | None = None
    domain_id: str | None = None


class UserCreate(Body):
    user: UserFields


class UserChanges(Body):
    name: Name | None = None
    password: Password | None = None
    description: str | None = None
    email: str | None = Field(default=None, max_length=255)
    enabled: bool | None = None
    default_project_id: str | None = None


class UserUpdate(Body):
    user: UserChanges


class PasswordFields(Body):
    password: Password
    original_password: Password


class PasswordChange(Body):
    user: PasswordFields


class RoleFields(Body):
    name: Name
    domain_id: str | None = None


class RoleBody(Body):
    role: RoleFields
