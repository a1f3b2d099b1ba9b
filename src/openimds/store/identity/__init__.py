"""Users, projects, roles and assignments; passwords and revoked tokens."""

from __future__ import annotations

from openimds.store.engine import Store
from openimds.store.identity.assignments import Assignments
from openimds.store.identity.credentials import Credentials
from openimds.store.identity.users_projects_roles import Projects, Roles, Users
from openimds.store.passwords import ROUNDS


class IdentityStore:
    """The identity service's part of the store, one attribute a noun."""

    def __init__(self, store: Store, password_rounds: int = ROUNDS) -> None:
        """`password_rounds`: bcrypt's cost; tests take 4."""
        self.users = Users(store, password_rounds)
        self.projects = Projects(store)
        self.roles = Roles(store)
        self.assignments = Assignments(store)
        self.credentials = Credentials(store, password_rounds)


__all__ = ["Assignments", "Credentials", "IdentityStore", "Projects", "Roles", "Users"]
