"""Who has which role where."""

from __future__ import annotations

import sqlalchemy as sa

from openimds.resources import identity as nouns
from openimds.resources.errors import NotFound
from openimds.resources.identity import SYSTEM_TARGET
from openimds.store.engine import Store
from openimds.store.identity.users_projects_roles import (
    project_row,
    project_value,
    role_row,
    role_value,
    user_row,
    user_value,
)
from openimds.store.models.identity import Project, Role, RoleAssignment, User


class Assignments:
    """`target` is a project's id or SYSTEM_TARGET."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def grant(self, user_id: str, target: str, role_id: str) -> None:
        """Idempotent. Raises NotFound for a user, project or role that is not there."""
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
        """Where the user has a role."""
        with self._store.read() as session:
            wanted = (
                sa.select(Project)
                .where(Project.id.in_(sa.select(RoleAssignment.target).where(RoleAssignment.user_id == user_id)))
                .order_by(Project.name)
            )
            return [project_value(row) for row in session.scalars(wanted)]

    def list(
        self, *, user_id: str | None = None, target: str | None = None, role_id: str | None = None
    ) -> list[nouns.Assignment]:
        """Only what was granted: implied roles are not listed."""
        wanted = (
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
                wanted = wanted.where(column == value)
        with self._store.read() as session:
            return [
                nouns.Assignment(user=user_value(user), role=role_value(role), project=_project(project))
                for _, user, role, project in session.execute(wanted)
            ]


def _project(row: Project | None) -> nouns.Project | None:
    return project_value(row) if row is not None else None
