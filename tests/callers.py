"""Callers of the stores, with the rights that the default policy gives to their roles."""

from __future__ import annotations

from openimds.control_api.context import RequestContext
from openimds.resources.caller import Caller


def network_caller(project_id: str, *roles: str) -> Caller:
    """The caller of the network store, with the role member unless others are given."""
    return RequestContext(
        user_id=f"user-of-{project_id}", project_id=project_id, roles=frozenset(roles or ("member",))
    ).network_caller
