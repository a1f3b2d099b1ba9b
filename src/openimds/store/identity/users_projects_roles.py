"""Users, projects and roles: create, list, show, change, delete."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from openimds.resources import identity as nouns
from openimds.resources.errors import Conflict, Forbidden, NotFound
from openimds.store.engine import Store, utc_now
from openimds.store.models.identity import Project, Role, RoleAssignment, User
from openimds.store.passwords import hash_password

BUILT_IN_ROLES = frozenset({"admin", "member", "reader", "service"})


class Users:
    """Passwords go in as text and never come out."""

    def __init__(self, store: Store, password_rounds: int) -> None:
        self._store = store
        self._rounds = password_rounds

    def list(self, *, name: str | None = None, enabled: bool | None = None) -> list[nouns.User]:
        with self._store.read() as session:
            wanted = sa.select(User).order_by(User.name)
            if name is not None:
                wanted = wanted.where(User.name == name)
            if enabled is not None:
                wanted = wanted.where(User.enabled == enabled)
            return [user_value(row) for row in session.scalars(wanted)]

    def get(self, user_id: str) -> nouns.User:
        with self._store.read() as session:
            return user_value(user_row(session, user_id))

    def create(self, fields: Mapping[str, Any], password: str | None) -> nouns.User:
        """`fields`: name, enabled, email, description, default_project_id. Raises Conflict for a name that is taken."""
        hashed = hash_password(password if password is not None else uuid.uuid4().hex, self._rounds)
        row = User(id=uuid.uuid4().hex, password_hash=hashed, password_changed_at=utc_now(), **fields)
        _insert(self._store, row, f"user {row.name!r}")
        return user_value(row)

    def update(self, user_id: str, fields: Mapping[str, Any], password: str | None = None) -> nouns.User:
        """A new password voids the tokens that the user had."""
        hashed = hash_password(password, self._rounds) if password is not None else None
        try:
            with self._store.write() as session:
                row = user_row(session, user_id)
                _set(row, fields)
                if hashed is not None:
                    row.password_hash = hashed
                    row.password_changed_at = utc_now()
        except IntegrityError as error:
            raise _taken(f"user {fields.get('name')!r}") from error
        return user_value(row)

    def delete(self, user_id: str) -> None:
        with self._store.write() as session:
            session.delete(user_row(session, user_id))


class Projects:
    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self, *, name: str | None = None, enabled: bool | None = None) -> list[nouns.Project]:
        with self._store.read() as session:
            wanted = sa.select(Project).order_by(Project.name)
            if name is not None:
                wanted = wanted.where(Project.name == name)
            if enabled is not None:
                wanted = wanted.where(Project.enabled == enabled)
            return [project_value(row) for row in session.scalars(wanted)]

    def get(self, project_id: str) -> nouns.Project:
        with self._store.read() as session:
            return project_value(project_row(session, project_id))

    def create(self, fields: Mapping[str, Any]) -> nouns.Project:
        row = Project(id=uuid.uuid4().hex, **fields)
        _insert(self._store, row, f"project {row.name!r}")
        return project_value(row)

    def update(self, project_id: str, fields: Mapping[str, Any]) -> nouns.Project:
        try:
            with self._store.write() as session:
                row = project_row(session, project_id)
                _set(row, fields)
        except IntegrityError as error:
            raise _taken(f"project {fields.get('name')!r}") from error
        return project_value(row)

    def delete(self, project_id: str) -> None:
        """Its role assignments go with it; what it owns elsewhere stays for an administrator to clean up, as ever."""
        with self._store.write() as session:
            row = project_row(session, project_id)
            session.execute(sa.delete(RoleAssignment).where(RoleAssignment.target == project_id))
            session.delete(row)


class Roles:
    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self, *, name: str | None = None) -> list[nouns.Role]:
        with self._store.read() as session:
            wanted = sa.select(Role).order_by(Role.name)
            if name is not None:
                wanted = wanted.where(Role.name == name)
            return [role_value(row) for row in session.scalars(wanted)]

    def get(self, role_id: str) -> nouns.Role:
        with self._store.read() as session:
            return role_value(role_row(session, role_id))

    def create(self, name: str) -> nouns.Role:
        row = Role(id=uuid.uuid4().hex, name=name)
        _insert(self._store, row, f"role {name!r}")
        return role_value(row)

    def rename(self, role_id: str, name: str) -> nouns.Role:
        try:
            with self._store.write() as session:
                row = role_row(session, role_id)
                _refuse_built_in(row)
                row.name = name
        except IntegrityError as error:
            raise _taken(f"role {name!r}") from error
        return role_value(row)

    def delete(self, role_id: str) -> None:
        with self._store.write() as session:
            row = role_row(session, role_id)
            _refuse_built_in(row)
            session.delete(row)


def user_row(session: Session, user_id: str) -> User:
    row = session.get(User, user_id)
    if row is None:
        raise NotFound(f"Could not find user: {user_id}.")
    return row


def project_row(session: Session, project_id: str) -> Project:
    row = session.get(Project, project_id)
    if row is None:
        raise NotFound(f"Could not find project: {project_id}.")
    return row


def role_row(session: Session, role_id: str) -> Role:
    row = session.get(Role, role_id)
    if row is None:
        raise NotFound(f"Could not find role: {role_id}.")
    return row


def user_value(row: User) -> nouns.User:
    return nouns.User(
        id=row.id,
        name=row.name,
        enabled=row.enabled,
        email=row.email,
        description=row.description,
        default_project_id=row.default_project_id,
        domain_id=row.domain_id,
        password_changed_at=row.password_changed_at,
    )


def project_value(row: Project) -> nouns.Project:
    return nouns.Project(
        id=row.id, name=row.name, description=row.description, enabled=row.enabled, domain_id=row.domain_id
    )


def role_value(row: Role) -> nouns.Role:
    return nouns.Role(row.id, row.name)


def _set(row: object, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        setattr(row, name, value)


def _insert(store: Store, row: object, what: str) -> None:
    try:
        with store.write() as session:
            session.add(row)
    except IntegrityError as error:
        raise _taken(what) from error


def _taken(what: str) -> Conflict:
    return Conflict(f"Conflict occurred attempting to store {what}: the name is taken.")


def _refuse_built_in(row: Role) -> None:
    if row.name in BUILT_IN_ROLES:
        raise Forbidden(
            f"The role {row.name!r} is one that openimds itself asks for; it can be neither renamed nor deleted."
        )
