"""Request bodies of Keystone's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Name = Annotated[str, Field(min_length=1, max_length=255)]
Text = Annotated[str, Field(max_length=255)]
Password = Annotated[SecretStr, Field(max_length=4096)]


class IdentityModel(BaseModel):
    """Base class. Unknown fields are ignored, as Keystone accepts additional attributes."""

    model_config = ConfigDict(extra="ignore")


class DomainRef(IdentityModel):
    id: Text | None = None
    name: Text | None = None


class PasswordUser(IdentityModel):
    id: Text | None = None
    name: Text | None = None
    domain: DomainRef | None = None
    password: Password


class PasswordMethod(IdentityModel):
    user: PasswordUser


class TokenMethod(IdentityModel):
    id: Annotated[SecretStr, Field(max_length=8192)]


class IdentityPart(IdentityModel):
    methods: list[str] = Field(min_length=1, max_length=8)
    password: PasswordMethod | None = None
    token: TokenMethod | None = None


class ProjectRef(IdentityModel):
    id: Text | None = None
    name: Text | None = None
    domain: DomainRef | None = None


class SystemRef(IdentityModel):
    all: Literal[True]


class ScopePart(IdentityModel):
    project: ProjectRef | None = None
    system: SystemRef | None = None
    domain: DomainRef | None = None
    trust: dict[str, Any] | None = Field(default=None, alias="OS-TRUST:trust")


class AuthPart(IdentityModel):
    identity: IdentityPart
    scope: ScopePart | Literal["unscoped"] | dict[str, Any] | None = None


class AuthBody(IdentityModel):
    auth: AuthPart


class ProjectFields(IdentityModel):
    name: Name
    description: Annotated[str, Field(max_length=65535)] | None = None
    enabled: bool = True
    domain_id: Text | None = None
    is_domain: bool = False
    parent_id: Text | None = None


class ProjectCreate(IdentityModel):
    project: ProjectFields


class ProjectChanges(IdentityModel):
    name: Name | None = None
    description: Annotated[str, Field(max_length=65535)] | None = None
    enabled: bool | None = None


class ProjectUpdate(IdentityModel):
    project: ProjectChanges


class UserFields(IdentityModel):
    name: Name
    password: Password | None = None
    description: Annotated[str, Field(max_length=65535)] | None = None
    email: Text | None = None
    enabled: bool = True
    default_project_id: Text | None = None
    domain_id: Text | None = None


class UserCreate(IdentityModel):
    user: UserFields


class UserChanges(IdentityModel):
    name: Name | None = None
    password: Password | None = None
    description: Annotated[str, Field(max_length=65535)] | None = None
    email: Text | None = None
    enabled: bool | None = None
    default_project_id: Text | None = None


class UserUpdate(IdentityModel):
    user: UserChanges


class PasswordFields(IdentityModel):
    password: Password
    original_password: Password


class PasswordChange(IdentityModel):
    user: PasswordFields


class RoleFields(IdentityModel):
    name: Name
    domain_id: Text | None = None


class RoleBody(IdentityModel):
    role: RoleFields
