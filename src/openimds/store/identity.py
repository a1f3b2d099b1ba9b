"""The operations of the identity service: users, projects, roles, role assignments, passwords and revoked tokens."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from openimds.resources import identity as nouns
from openimds.resources.errors import Conflict, Forbidden, NotFound, Unauthorized
from openimds.resources.identity import IMPLIED_ROLES, SYSTEM_TARGET
from openimds.store.engine import Store, utc_now
from openimds.store.models.identity import Project, RevokedToken, Role, RoleAssignment, User
from openimds.store.passwords import ROUNDS, VerifiedPasswords, hash_password, verify_password

BUILT_IN_ROLES = frozenset({"admin", "member", "reader", "service"})


class Users:
    """The users. Passwords are stored as hashes only."""

    def __init__(self, store: Store, password_rounds: int) -> None:
        self._store = store
        self._rounds = password_rounds

    def list(self, *, name: str | None = None, enabled: bool | None = None) -> list[nouns.User]:
        with self._store.read() as session:
            statement = sa.select(User).order_by(User.name)
            if name is not None:
                statement = statement.where(User.name == name)
            if enabled is not None:
                statement = statement.where(User.enabled == enabled)
            return [user_value(row) for row in session.scalars(statement)]

    def get(self, user_id: str) -> nouns.User:
        with self._store.read() as session:
            return user_value(user_row(session, user_id))

    def create(self, fields: Mapping[str, Any], password: str | None) -> nouns.User:
        """Creates a user. A user without a password receives a random one. Raises Conflict if another user has the name.

        `fields`: name, enabled, email, description, default_project_id.
        """
        hashed = hash_password(password if password is not None else uuid.uuid4().hex, self._rounds)
        row = User(id=uuid.uuid4().hex, password_hash=hashed, password_changed_at=utc_now(), **fields)
        _insert(self._store, row, f"user {row.name!r}")
        return user_value(row)

    def update(self, user_id: str, fields: Mapping[str, Any], password: str | None = None) -> nouns.User:
        """Changes these fields. A new password invalidates the user's earlier tokens."""
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
            statement = sa.select(Project).order_by(Project.name)
            if name is not None:
                statement = statement.where(Project.name == name)
            if enabled is not None:
                statement = statement.where(Project.enabled == enabled)
            return [project_value(row) for row in session.scalars(statement)]

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
        """Deletes a project and its role assignments. Its resources stay, as in Keystone."""
        with self._store.write() as session:
            row = project_row(session, project_id)
            session.execute(sa.delete(RoleAssignment).where(RoleAssignment.target == project_id))
            session.delete(row)


class Roles:
    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self, *, name: str | None = None) -> list[nouns.Role]:
        with self._store.read() as session:
            statement = sa.select(Role).order_by(Role.name)
            if name is not None:
                statement = statement.where(Role.name == name)
            return [role_value(row) for row in session.scalars(statement)]

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
            f"The role {row.name!r} is built in: openimds checks it, so it can be neither renamed nor deleted."
        )


class Assignments:
    """Role assignments. `target` is the id of a project or SYSTEM_TARGET."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def grant(self, user_id: str, target: str, role_id: str) -> None:
        """Grants a role. Idempotent. Raises NotFound for a user, project or role that does not exist."""
        with self._store.write() as session:
            user_row(session, user_id)
            role_row(session, role_id)
            if target != SYSTEM_TARGET:
                project_row(session, target)
            if session.get(RoleAssignment, (user_id, target, role_id)) is None:
                session.add(RoleAssignment(user_id=user_id, target=target, role_id=role_id))

    def revoke(self, user_id: str, target: str, role_id: str) -> None:
        with self._store.write() as session:
            row = session.get(RoleAssignment, (user_id, target, role_id))
            if row is None:
                raise NotFound(f"User {user_id} has no role {role_id} on {target}.")
            session.delete(row)

    def has(self, user_id: str, target: str, role_id: str) -> bool:
        with self._store.read() as session:
            return session.get(RoleAssignment, (user_id, target, role_id)) is not None

    def projects_of(self, user_id: str) -> list[nouns.Project]:
        """The projects on which the user has a role."""
        with self._store.read() as session:
            statement = (
                sa.select(Project)
                .where(Project.id.in_(sa.select(RoleAssignment.target).where(RoleAssignment.user_id == user_id)))
                .order_by(Project.name)
            )
            return [project_value(row) for row in session.scalars(statement)]

    def list(
        self, *, user_id: str | None = None, target: str | None = None, role_id: str | None = None
    ) -> list[nouns.Assignment]:
        """The granted roles, without implied ones."""
        statement = (
            sa.select(RoleAssignment, User, Role, Project)
            .join(User, User.id == RoleAssignment.user_id)
            .join(Role, Role.id == RoleAssignment.role_id)
            .outerjoin(Project, Project.id == RoleAssignment.target)
            .order_by(User.name, RoleAssignment.target, Role.name)
        )
        for column, value in (
            (RoleAssignment.user_id, user_id),
            (RoleAssignment.target, target),
            (RoleAssignment.role_id, role_id),
        ):
            if value is not None:
                statement = statement.where(column == value)
        with self._store.read() as session:
            return [
                nouns.Assignment(user=user_value(user), role=role_value(role), project=_project(project))
                for _, user, role, project in session.execute(statement)
            ]


def _project(row: Project | None) -> nouns.Project | None:
    return project_value(row) if row is not None else None


WRONG = "The request you have made requires authentication: the user or the password is wrong."


@dataclass(frozen=True, slots=True)
class _PasswordUser:
    """The columns of a user that a password check needs."""

    id: str
    password_hash: str
    enabled: bool


class Credentials:
    def __init__(self, store: Store, password_rounds: int) -> None:
        self._store = store
        self._rounds = password_rounds
        self._verified = VerifiedPasswords()

    def look_up_login(self, password: str, *, user_id: str | None = None, name: str | None = None) -> nouns.LoginUser:
        """The user that a login names, and whether the password was verified shortly before. Computes no bcrypt hash."""
        user = self._password_user(user_id, name)
        if user is None:
            return nouns.LoginUser()
        verified = user.enabled and self._verified.contains(user.id, password, user.password_hash)
        return nouns.LoginUser(user.id, verified)

    def check_password(self, password: str, *, user_id: str | None = None, name: str | None = None) -> str:
        """The id of the user. Raises Unauthorized, with the same text and after the same time for a wrong user and a wrong
        password.
        """
        user = self._password_user(user_id, name)
        right = verify_password(password, user.password_hash if user else None, self._rounds)
        if user is None or not right or not user.enabled:
            raise Unauthorized(WRONG)
        self._verified.add(user.id, password, user.password_hash)
        return user.id

    def _password_user(self, user_id: str | None, name: str | None) -> _PasswordUser | None:
        """The user, or None. The session is closed before a hash is computed, which takes long."""
        with self._store.read() as session:
            row = session.scalars(
                sa.select(User).where(User.id == user_id if user_id else User.name == name)
            ).one_or_none()
            return _PasswordUser(row.id, row.password_hash, row.enabled) if row else None

    def project_id_by_name(self, name: str) -> str:
        with self._store.read() as session:
            found = session.scalar(sa.select(Project.id).where(Project.name == name))
        if found is None:
            raise NotFound(f"Could not find project: {name}.")
        return found

    def access_info(self, user_id: str, scope: nouns.TokenScope) -> nouns.AccessInfo:
        """The user's roles in a scope. Raises Unauthorized if the user does not exist, is disabled or has no role there."""
        with self._store.read() as session:
            return _access_info(session, _enabled_user(session, user_id), scope)

    def token_access_info(self, token: nouns.Token) -> nouns.AccessInfo:
        """The user's roles in the scope of a token. Raises Unauthorized also for a token that was revoked or is older than
        the password.
        """
        with self._store.read() as session:
            revoked = sa.select(RevokedToken.audit_id).where(RevokedToken.audit_id.in_(token.audit_ids))
            user = _enabled_user(session, token.user_id)
            if session.scalar(revoked.limit(1)) is not None or token.issued_at < user.password_changed_at:
                raise Unauthorized("The token was revoked: authenticate again.")
            return _access_info(session, user, token.scope)

    def revoke(self, token: nouns.Token) -> None:
        """Revokes a token and the tokens that were issued for it. Idempotent."""
        with self._store.write() as session:
            if session.get(RevokedToken, token.audit_ids[0]) is None:
                session.add(RevokedToken(audit_id=token.audit_ids[0], expires_at=token.expires_at))
        self._verified.remove(token.user_id)

    def prune_revoked(self, now: datetime) -> int:
        """Deletes revocations of tokens that have expired. Returns their number."""
        with self._store.write() as session:
            done: Any = session.execute(sa.delete(RevokedToken).where(RevokedToken.expires_at < now))
            return int(done.rowcount)


def _enabled_user(session: Session, user_id: str) -> User:
    user = session.get(User, user_id)
    if user is None or not user.enabled:
        raise Unauthorized("The user of this token does not exist or is disabled.")
    return user


def _access_info(session: Session, user: User, scope: nouns.TokenScope) -> nouns.AccessInfo:
    project = _enabled_project(session, scope.project_id)
    target = scope.project_id or (SYSTEM_TARGET if scope.system else None)
    roles = _roles(session, user.id, target) if target else ()
    if target and not roles:
        raise Unauthorized(f"User {user.name} has no role on {project.name if project else 'the system'}.")
    return nouns.AccessInfo(
        user=user_value(user), project=project_value(project) if project else None, system=scope.system, roles=roles
    )


def _enabled_project(session: Session, project_id: str | None) -> Project | None:
    if project_id is None:
        return None
    project = session.get(Project, project_id)
    if project is None or not project.enabled:
        raise Unauthorized(f"The project {project_id} does not exist or is disabled.")
    return project


def _roles(session: Session, user_id: str, target: str) -> tuple[nouns.Role, ...]:
    rows = session.scalars(
        sa.select(Role)
        .join(RoleAssignment, RoleAssignment.role_id == Role.id)
        .where(RoleAssignment.user_id == user_id, RoleAssignment.target == target)
    ).all()
    implied = {name for row in rows for name in IMPLIED_ROLES.get(row.name, ())} - {row.name for row in rows}
    more = session.scalars(sa.select(Role).where(Role.name.in_(implied))).all() if implied else ()
    return tuple(sorted((role_value(row) for row in [*rows, *more]), key=lambda role: role.name))


class IdentityStore:
    """The identity service's part of the store. Each attribute is the store of one kind of resource."""

    def __init__(self, store: Store, password_rounds: int = ROUNDS) -> None:
        """`password_rounds`: the cost factor of bcrypt. Tests use 4."""
        self.users = Users(store, password_rounds)
        self.projects = Projects(store)
        self.roles = Roles(store)
        self.assignments = Assignments(store)
        self.credentials = Credentials(store, password_rounds)
