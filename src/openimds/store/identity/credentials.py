"""Checking who somebody is: passwords, where they stand, and tokens that were given back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources import identity as nouns
from openimds.resources.errors import NotFound, Unauthorized
from openimds.resources.identity import IMPLIED_ROLES, SYSTEM_TARGET
from openimds.store.engine import Store
from openimds.store.identity.users_projects_roles import project_value, role_value, user_value
from openimds.store.models.identity import Project, RevokedToken, Role, RoleAssignment, User
from openimds.store.passwords import VerifiedPasswords, verify_password

WRONG = "The request you have made requires authentication: the user or the password is wrong."


@dataclass(frozen=True, slots=True)
class _Known:
    """What a password check needs of a user."""

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
        known = self._known(user_id, name)
        if known is None:
            return nouns.LoginUser()
        verified = known.enabled and self._verified.contains(known.id, password, known.password_hash)
        return nouns.LoginUser(known.id, verified)

    def check_password(self, password: str, *, user_id: str | None = None, name: str | None = None) -> str:
        """The user's id. Raises Unauthorized, after the same time and in the same words, whatever of it is wrong."""
        known = self._known(user_id, name)
        right = verify_password(password, known.password_hash if known else None, self._rounds)
        if known is None or not right or not known.enabled:
            raise Unauthorized(WRONG)
        self._verified.add(known.id, password, known.password_hash)
        return known.id

    def _known(self, user_id: str | None, name: str | None) -> _Known | None:
        """The session is closed before a hash is computed, which takes long."""
        with self._store.read() as session:
            row = session.scalars(
                sa.select(User).where(User.id == user_id if user_id else User.name == name)
            ).one_or_none()
            return _Known(row.id, row.password_hash, row.enabled) if row else None

    def project_id_by_name(self, name: str) -> str:
        with self._store.read() as session:
            found = session.scalar(sa.select(Project.id).where(Project.name == name))
        if found is None:
            raise NotFound(f"Could not find project: {name}.")
        return found

    def standing(self, user_id: str, scope: nouns.TokenScope) -> nouns.AccessInfo:
        """Raises Unauthorized when the user is gone or disabled, or has no role in that scope."""
        with self._store.read() as session:
            return _standing(session, _enabled_user(session, user_id), scope)

    def standing_of(self, token: nouns.Token) -> nouns.AccessInfo:
        """The same for a token, which must not be revoked and not be older than the user's password."""
        with self._store.read() as session:
            revoked = sa.select(RevokedToken.audit_id).where(RevokedToken.audit_id.in_(token.audit_ids))
            user = _enabled_user(session, token.user_id)
            if session.scalar(revoked.limit(1)) is not None or token.issued_at < user.password_changed_at:
                raise Unauthorized("The token was revoked: authenticate again.")
            return _standing(session, user, token.scope)

    def revoke(self, token: nouns.Token) -> None:
        """Idempotent; tokens that came from it are void too."""
        with self._store.write() as session:
            if session.get(RevokedToken, token.audit_ids[0]) is None:
                session.add(RevokedToken(audit_id=token.audit_ids[0], expires_at=token.expires_at))
        self._verified.remove(token.user_id)

    def prune_revoked(self, now: datetime) -> int:
        """Forget revocations of tokens that have expired anyhow. Returns how many."""
        with self._store.write() as session:
            done: Any = session.execute(sa.delete(RevokedToken).where(RevokedToken.expires_at < now))
            return int(done.rowcount)


def _enabled_user(session: Session, user_id: str) -> User:
    user = session.get(User, user_id)
    if user is None or not user.enabled:
        raise Unauthorized("The user that this token was made for is gone or disabled.")
    return user


def _standing(session: Session, user: User, scope: nouns.TokenScope) -> nouns.AccessInfo:
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
        raise Unauthorized(f"The project {project_id} is not there or is disabled.")
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
