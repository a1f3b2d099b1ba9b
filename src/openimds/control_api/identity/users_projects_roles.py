"""Projects, users, roles, role assignments, and the domain `default`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from openimds.control_api.context import AUTHENTICATED, AuthenticatedCaller, authorize
from openimds.control_api.identity import schemas, views
from openimds.control_api.identity.logins import client_address
from openimds.control_api.identity.protocols import IdentityService
from openimds.control_api.pagination import Paging, paginate
from openimds.control_api.routing import ServiceRouter
from openimds.resources.errors import BadRequest, Forbidden, NotFound, NotSupported, Unauthorized
from openimds.resources.identity import DOMAIN_ID, DOMAIN_NAME, SYSTEM_TARGET


def router(service: IdentityService) -> APIRouter:
    routes = ServiceRouter()
    _projects(routes, service)
    _users(routes, service)
    _roles(routes, service)
    _domains(routes, service)
    return routes


def _projects(routes: APIRouter, service: IdentityService) -> None:
    url = service.catalog.public_url

    @routes.get("/projects")
    def list_projects(
        caller: AuthenticatedCaller,
        paging: Paging,
        name: str | None = None,
        enabled: bool | None = None,
        domain_id: str | None = None,
        parent_id: str | None = None,
        is_domain: bool = False,
    ) -> dict[str, Any]:
        authorize(caller, "identity:list_projects")
        nothing = is_domain or domain_id not in {None, DOMAIN_ID} or parent_id not in {None, DOMAIN_ID}
        found = [] if nothing else service.projects.list(name=name, enabled=enabled)
        shown = [views.project(item, url) for item in paginate(found, paging).items]
        return {"projects": shown, "links": _links(url, "projects")}

    @routes.post("/projects", status_code=201)
    def create_project(caller: AuthenticatedCaller, body: schemas.ProjectCreate) -> dict[str, Any]:
        authorize(caller, "identity:create_project")
        _only_default_domain("project.domain_id", body.project.domain_id)
        _only_default_domain("project.parent_id", body.project.parent_id)
        if body.project.is_domain:
            raise NotSupported("openimds has one domain; projects that are domains cannot be created.")
        fields = body.project.model_dump(include={"name", "enabled"})
        made = service.projects.create({**fields, "description": body.project.description or ""})
        return {"project": views.project(made, url)}

    @routes.get("/projects/{project_id}")
    def show_project(caller: AuthenticatedCaller, project_id: str) -> dict[str, Any]:
        has_role = _has_role_on(service, caller.user_id, project_id)
        authorize(caller, "identity:get_project", {"project_id": project_id, "has_role": has_role})
        return {"project": views.project(service.projects.get(project_id), url)}

    @routes.patch("/projects/{project_id}")
    def update_project(caller: AuthenticatedCaller, project_id: str, body: schemas.ProjectUpdate) -> dict[str, Any]:
        authorize(caller, "identity:update_project")
        changes = body.project.model_dump(exclude_none=True)
        return {"project": views.project(service.projects.update(project_id, changes), url)}

    @routes.delete("/projects/{project_id}", status_code=204)
    def delete_project(caller: AuthenticatedCaller, project_id: str) -> None:
        authorize(caller, "identity:delete_project")
        if project_id == caller.project_id:
            raise Forbidden("The project that your token is for cannot be deleted with it.")
        service.projects.delete(project_id)


def _users(routes: APIRouter, service: IdentityService) -> None:
    url = service.catalog.public_url

    @routes.get("/users")
    def list_users(
        caller: AuthenticatedCaller,
        paging: Paging,
        name: str | None = None,
        enabled: bool | None = None,
        domain_id: str | None = None,
    ) -> dict[str, Any]:
        authorize(caller, "identity:list_users")
        found = [] if domain_id not in {None, DOMAIN_ID} else service.users.list(name=name, enabled=enabled)
        shown = [views.user(item, url) for item in paginate(found, paging).items]
        return {"users": shown, "links": _links(url, "users")}

    @routes.post("/users", status_code=201)
    def create_user(caller: AuthenticatedCaller, body: schemas.UserCreate) -> dict[str, Any]:
        authorize(caller, "identity:create_user")
        _only_default_domain("user.domain_id", body.user.domain_id)
        if body.user.default_project_id:
            _existing_project(service, body.user.default_project_id)
        fields = body.user.model_dump(include={"name", "enabled", "email", "default_project_id"})
        password = body.user.password.get_secret_value() if body.user.password else None
        made = service.users.create({**fields, "description": body.user.description or ""}, password)
        return {"user": views.user(made, url)}

    @routes.get("/users/{user_id}")
    def show_user(caller: AuthenticatedCaller, user_id: str) -> dict[str, Any]:
        authorize(caller, "identity:get_user", {"user_id": user_id})
        return {"user": views.user(service.users.get(user_id), url)}

    @routes.patch("/users/{user_id}")
    def update_user(caller: AuthenticatedCaller, user_id: str, body: schemas.UserUpdate) -> dict[str, Any]:
        authorize(caller, "identity:update_user")
        if body.user.default_project_id:
            _existing_project(service, body.user.default_project_id)
        changes = body.user.model_dump(exclude_none=True, exclude={"password"})
        password = body.user.password.get_secret_value() if body.user.password else None
        return {"user": views.user(service.users.update(user_id, changes, password), url)}

    @routes.delete("/users/{user_id}", status_code=204)
    def delete_user(caller: AuthenticatedCaller, user_id: str) -> None:
        authorize(caller, "identity:delete_user")
        if user_id == caller.user_id:
            raise Forbidden("You cannot delete yourself.")
        service.users.delete(user_id)

    @routes.post("/users/{user_id}/password", status_code=204)
    async def change_password(
        request: Request, caller: AuthenticatedCaller, user_id: str, body: schemas.PasswordChange
    ) -> None:
        if caller.user_id != user_id:
            raise Forbidden("Only the user changes a password this way; an administrator uses PATCH /v3/users/{id}.")
        try:
            original = body.user.original_password.get_secret_value()
            await service.logins.user_id(client_address(request), original, user_id=user_id)
        except Unauthorized as error:
            raise Unauthorized("The original password is wrong; the password was not changed.") from error
        await run_in_threadpool(service.users.update, user_id, {}, body.user.password.get_secret_value())

    @routes.get("/users/{user_id}/projects")
    def projects_of_user(caller: AuthenticatedCaller, user_id: str) -> dict[str, Any]:
        authorize(caller, "identity:list_user_projects", {"user_id": user_id})
        service.users.get(user_id)
        found = service.assignments.projects_of(user_id)
        return {"projects": [views.project(item, url) for item in found], "links": _links(url, "projects")}

    @routes.get("/users/{user_id}/groups")
    def groups_of_user(caller: AuthenticatedCaller, user_id: str) -> dict[str, Any]:
        authorize(caller, "identity:list_groups_for_user", {"user_id": user_id})
        service.users.get(user_id)
        return {"groups": [], "links": _links(url, "groups")}


def _roles(routes: APIRouter, service: IdentityService) -> None:
    url = service.catalog.public_url

    @routes.get("/roles")
    def list_roles(
        caller: AuthenticatedCaller, paging: Paging, name: str | None = None, domain_id: str | None = None
    ) -> dict[str, Any]:
        authorize(caller, "identity:list_roles")
        found = [] if domain_id else service.roles.list(name=name)
        shown = [views.role(item, url) for item in paginate(found, paging).items]
        return {"roles": shown, "links": _links(url, "roles")}

    @routes.post("/roles", status_code=201)
    def create_role(caller: AuthenticatedCaller, body: schemas.RoleBody) -> dict[str, Any]:
        authorize(caller, "identity:create_role")
        if body.role.domain_id:
            raise NotSupported("Roles of a domain are not supported: openimds has one domain.")
        return {"role": views.role(service.roles.create(body.role.name), url)}

    @routes.get("/roles/{role_id}")
    def show_role(caller: AuthenticatedCaller, role_id: str) -> dict[str, Any]:
        authorize(caller, "identity:get_role")
        return {"role": views.role(service.roles.get(role_id), url)}

    @routes.patch("/roles/{role_id}")
    def update_role(caller: AuthenticatedCaller, role_id: str, body: schemas.RoleBody) -> dict[str, Any]:
        authorize(caller, "identity:update_role")
        return {"role": views.role(service.roles.rename(role_id, body.role.name), url)}

    @routes.delete("/roles/{role_id}", status_code=204)
    def delete_role(caller: AuthenticatedCaller, role_id: str) -> None:
        authorize(caller, "identity:delete_role")
        service.roles.delete(role_id)


def _domains(routes: APIRouter, service: IdentityService) -> None:
    url = service.catalog.public_url

    @routes.get("/domains")
    def list_domains(caller: AuthenticatedCaller, name: str | None = None, enabled: bool = True) -> dict[str, Any]:
        authorize(caller, "identity:list_domains")
        shown = [views.domain(url)] if name in {None, DOMAIN_NAME} and enabled else []
        return {"domains": shown, "links": _links(url, "domains")}

    @routes.get("/domains/{domain_id}", dependencies=AUTHENTICATED)
    def show_domain(domain_id: str) -> dict[str, Any]:
        if domain_id != DOMAIN_ID:
            raise NotFound(f"Could not find domain: {domain_id}.")
        return {"domain": views.domain(url)}

    @routes.post("/domains", dependencies=AUTHENTICATED)
    @routes.patch("/domains/{domain_id}", dependencies=AUTHENTICATED)
    @routes.delete("/domains/{domain_id}", dependencies=AUTHENTICATED)
    def refuse() -> None:
        raise NotSupported(f"openimds has one domain, {DOMAIN_NAME}; domains cannot be created, changed or deleted.")


def _has_role_on(service: IdentityService, user_id: str, project_id: str) -> bool:
    return bool(service.assignments.list(user_id=user_id, target=project_id))


def _existing_project(service: IdentityService, project_id: str) -> None:
    try:
        service.projects.get(project_id)
    except NotFound as error:
        raise BadRequest("user.default_project_id", error.message) from error


def _only_default_domain(field: str, domain_id: str | None) -> None:
    if domain_id not in {None, DOMAIN_ID}:
        raise BadRequest(field, f"there is one domain, its id is {DOMAIN_ID}")


def _links(public_url: str, path: str) -> dict[str, str | None]:
    return {"next": None, "previous": None, "self": f"{public_url}/v3/{path}"}


def assignments_router(service: IdentityService) -> APIRouter:
    routes = ServiceRouter()
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
        authorize(caller, "identity:list_role_assignments", {"user_id": user_id or ""})
        target = SYSTEM_TARGET if system else project_id
        found = [] if group_id else service.assignments.list(user_id=user_id, target=target, role_id=role_id)
        url, names = service.catalog.public_url, include_names not in {None, "0", "false", "False"}
        shown = [views.assignment(item, url, names=names) for item in found]
        links = {"next": None, "previous": None, "self": f"{url}/v3/role_assignments"}
        return {"role_assignments": shown, "links": links}

    return routes


def _on_target(routes: APIRouter, service: IdentityService, root: str) -> None:
    """The four routes below `/projects/{target}` or `/system`."""
    path = root + "/users/{user_id}/roles"

    @routes.get(path)
    def list_roles(caller: AuthenticatedCaller, user_id: str, target: str = SYSTEM_TARGET) -> dict[str, Any]:
        authorize(caller, "identity:list_grants")
        service.users.get(user_id)
        held = service.assignments.list(user_id=user_id, target=target)
        url = service.catalog.public_url
        links = {"next": None, "previous": None, "self": None}
        return {"roles": [views.role(item.role, url) for item in held], "links": links}

    @routes.put(path + "/{role_id}", status_code=204)
    def grant(caller: AuthenticatedCaller, user_id: str, role_id: str, target: str = SYSTEM_TARGET) -> None:
        authorize(caller, "identity:create_grant")
        service.assignments.grant(user_id, target, role_id)

    @routes.head(path + "/{role_id}", status_code=204)
    @routes.get(path + "/{role_id}", status_code=204)
    def check(caller: AuthenticatedCaller, user_id: str, role_id: str, target: str = SYSTEM_TARGET) -> Response:
        authorize(caller, "identity:check_grant")
        if not service.assignments.has(user_id, target, role_id):
            raise NotFound(f"User {user_id} has no role {role_id} on {target}.")
        return Response(status_code=204)

    @routes.delete(path + "/{role_id}", status_code=204)
    def revoke(caller: AuthenticatedCaller, user_id: str, role_id: str, target: str = SYSTEM_TARGET) -> None:
        authorize(caller, "identity:revoke_grant")
        service.assignments.revoke(user_id, target, role_id)
