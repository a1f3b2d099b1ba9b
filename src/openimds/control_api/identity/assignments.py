"""Roles that users have on projects and on the system."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from openimds.control_api.context import AuthenticatedCaller, require_admin
from openimds.control_api.identity import views
from openimds.control_api.identity.protocols import IdentityService
from openimds.resources.errors import NotFound
from openimds.resources.identity import SYSTEM_TARGET


def router(service: IdentityService) -> APIRouter:
    routes = APIRouter()
    _on_target(routes, service, "/projects/{target}")
    _on_target(routes, service, "/system")

    @routes.get("/role_assignments")
    def list_assignments(
        caller: AuthenticatedCaller,
        user_id: Annotated[str | None, Query(alias="user.id")] = None,
        role_id: Annotated[str | None, Query(alias="role.id")] = None,
        project_id: Annotated[str | None, Query(alias="scope.project.id")] = None,
        system: Annotated[str | None, Query(alias="scope.system")] = None,
        group_id: Annotated[str | None, Query(alias="group.id")] = None,
        include_names: str | None = None,
    ) -> dict[str, Any]:
        if user_id != caller.user_id:
            require_admin(caller, "identity:list_role_assignments")
        target = SYSTEM_TARGET if system else project_id
        found = [] if group_id else service.assignments.list(user_id=user_id, target=target, role_id=role_id)
        url, names = service.catalog.public_url, include_names not in {None, "0", "false", "False"}
        shown = [views.assignment(item, url, names=names) for item in found]
        links = {"next": None, "previous": None, "self": f"{url}/v3/role_assignments"}
        return {"role_assignments": shown, "links": links}

    return routes


def _on_target(routes: APIRouter, service: IdentityService, root: str) -> None:
    """The four calls below `/projects/{target}` and, alike, below `/system`."""
    path = root + "/users/{user_id}/roles"

    @routes.get(path)
    def list_roles(caller: AuthenticatedCaller, user_id: str, target: str = SYSTEM_TARGET) -> dict[str, Any]:
        require_admin(caller, "identity:list_grants")
        service.users.get(user_id)
        held = service.assignments.list(user_id=user_id, target=target)
        url = service.catalog.public_url
        links = {"next": None, "previous": None, "self": None}
        return {"roles": [views.role(item.role, url) for item in held], "links": links}

    @routes.put(path + "/{role_id}", status_code=204)
    def grant(caller: AuthenticatedCaller, user_id: str, role_id: str, target: str = SYSTEM_TARGET) -> None:
        require_admin(caller, "identity:create_grant")
        service.assignments.grant(user_id, target, role_id)

    @routes.head(path + "/{role_id}", status_code=204)
    @routes.get(path + "/{role_id}", status_code=204)
    def check(caller: AuthenticatedCaller, user_id: str, role_id: str, target: str = SYSTEM_TARGET) -> Response:
        require_admin(caller, "identity:check_grant")
        if not service.assignments.has(user_id, target, role_id):
            raise NotFound(f"User {user_id} has no role {role_id} on {target}.")
        return Response(status_code=204)

    @routes.delete(path + "/{role_id}", status_code=204)
    def revoke(caller: AuthenticatedCaller, user_id: str, role_id: str, target: str = SYSTEM_TARGET) -> None:
        require_admin(caller, "identity:revoke_grant")
        service.assignments.revoke(user_id, target, role_id)
