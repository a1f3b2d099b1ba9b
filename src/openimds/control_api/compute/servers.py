"""`/servers`: create, list, show, update and delete."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from openimds.control_api.compute import policies, server_view
from openimds.control_api.compute.microversions import Version
from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.compute.schemas import ServerCreate, ServerUpdate
from openimds.control_api.compute.server_parsing import changes, new_server
from openimds.control_api.context import ProjectCaller, RequestContext
from openimds.control_api.pagination import PageParams, Paging, next_link
from openimds.control_api.routing import ServiceRouter
from openimds.resources.compute import ServerQuery
from openimds.resources.errors import BadRequest, Forbidden
from openimds.resources.query import MAX_SORT_KEYS

TRUE_WORDS = frozenset({"1", "t", "true", "on", "y", "yes"})

STATUSES_OF = {
    "ACTIVE": ("ACTIVE",),
    "BUILD": ("BUILD",),
    "ERROR": ("ERROR",),
    "SHUTOFF": ("SHUTOFF",),
    "REBOOT": ("REBOOT",),
    "HARD_REBOOT": ("HARD_REBOOT",),
    "REBUILD": ("REBUILD",),
}
SORT_KEYS_OF_ADMINISTRATORS = frozenset({"host", "node"})
NO_SUCH_STATUS = ("-",)
"""A status that matches no server. Nova lists nothing for an unknown status."""


def filters(  # one parameter a filter
    request: Request,
    caller: ProjectCaller,
    paging: Paging,
    name: str | None = None,
    status: Annotated[list[str] | None, Query()] = None,
    host: str | None = None,
    image: str | None = None,
    flavor: str | None = None,
    ip: str | None = None,
    ip6: str | None = None,
    all_tenants: str | None = None,
    project_id: str | None = None,
    tenant_id: str | None = None,
    user_id: str | None = None,
    key_name: str | None = None,
    availability_zone: str | None = None,
    reservation_id: str | None = None,
    uuid: str | None = None,
    hostname: str | None = None,
    locked: bool | None = None,
    changes_since: Annotated[str | None, Query(alias="changes-since")] = None,
    changes_before: Annotated[str | None, Query(alias="changes-before")] = None,
    tags: str | None = None,
    tags_any: Annotated[str | None, Query(alias="tags-any")] = None,
    not_tags: Annotated[str | None, Query(alias="not-tags")] = None,
    not_tags_any: Annotated[str | None, Query(alias="not-tags-any")] = None,
) -> ServerQuery:
    """FastAPI dependency: the filters of a server list. `all_tenants` is reserved for administrators."""
    all_projects = _is_true(all_tenants)
    all_filters = caller.permits(policies.ALL_FILTERS, {})
    if all_projects and not caller.permits(policies.ALL_TENANTS, {}):
        raise Forbidden("Policy doesn't allow os_compute_api:servers:detail:get_all_tenants to be performed.")
    of_project = (project_id or tenant_id) if all_projects else caller.project_id
    query = ServerQuery(
        project_id=of_project,
        name=name,
        statuses=_statuses(status or ()),
        image_id=image.rsplit("/", 1)[-1] if image else None,
        flavor_id=flavor,
        ip=ip,
        ip6=ip6,
        key_name=key_name,
        availability_zone=availability_zone,
        reservation_id=reservation_id,
        server_id=uuid,
        hostname=hostname,
        locked=locked,
        changed_since=_moment("changes-since", changes_since),
        changed_before=_moment("changes-before", changes_before),
        tags_all=_listed(tags),
        tags_any=_listed(tags_any),
        not_tags_all=_listed(not_tags),
        not_tags_any=_listed(not_tags_any),
        sort=_sort(request, caller),
        host=host if all_filters else None,
        user_id=user_id if all_filters else None,
    )
    return _paged(query, paging)


Filters = Annotated[ServerQuery, Depends(filters)]


def router(service: ComputeService) -> APIRouter:
    routes = ServiceRouter()

    @routes.post("/servers", status_code=202)
    def create_server(caller: ProjectCaller, version: Version, body: ServerCreate) -> Response:
        if not caller.project_id:
            raise BadRequest("X-Auth-Token", "a server needs a project: authenticate with a project's scope")
        chooses_host = caller.permits(policies.REQUESTED_DESTINATION, {"project_id": caller.project_id})
        made = service.store.servers.create(new_server(body, version, admin=chooses_host), caller.requester)
        first = made[0]
        if body.server.return_reservation_id:
            return JSONResponse({"reservation_id": first.reservation_id}, 202)
        links = service.links("servers", first.id)
        shown = {
            "id": first.id,
            "links": links,
            "OS-DCF:diskConfig": body.server.disk_config or "MANUAL",
            "security_groups": [{"name": name} for name in first.security_group_names],
        }
        return JSONResponse({"server": shown}, 202, headers={"Location": links[0]["href"]})

    @routes.get("/servers")
    def list_servers(request: Request, query: Filters) -> dict[str, Any]:
        found, more = service.store.servers.list(query)
        shown = [server_view.brief(server, service) for server in found]
        return {"servers": shown, **_next(request, service, "servers", found[-1].id if more else None)}

    @routes.get("/servers/detail")
    def list_servers_in_detail(
        request: Request, caller: ProjectCaller, version: Version, query: Filters
    ) -> dict[str, Any]:
        found, more = service.store.servers.list(query)
        shown = [server_view.full(server, service, version, admin=_sees_all(caller), detail=True) for server in found]
        return {"servers": shown, **_next(request, service, "servers/detail", found[-1].id if more else None)}

    @routes.get("/servers/{server_id}")
    def show_server(caller: ProjectCaller, version: Version, server_id: str) -> dict[str, Any]:
        server = service.store.servers.get(server_id, caller.requester)
        return {"server": server_view.full(server, service, version, admin=_sees_all(caller))}

    @routes.put("/servers/{server_id}")
    def update_server(caller: ProjectCaller, version: Version, server_id: str, body: ServerUpdate) -> dict[str, Any]:
        fields = changes(body.server, version)
        server = service.store.servers.update(server_id, fields, caller.requester)
        return {"server": server_view.full(server, service, version, admin=_sees_all(caller))}

    @routes.delete("/servers/{server_id}", status_code=204)
    def delete_server(caller: ProjectCaller, server_id: str) -> None:
        service.store.servers.delete(server_id, caller.requester)

    return routes


def _sees_all(caller: RequestContext) -> bool:
    return caller.permits(policies.EXTENDED_ATTRIBUTES, {"project_id": caller.project_id})


def _paged(query: ServerQuery, paging: PageParams) -> ServerQuery:
    return replace(query, limit=paging.limit, marker=paging.marker)


def _next(request: Request, service: ComputeService, path: str, last_id: str | None) -> dict[str, Any]:
    if last_id is None:
        return {}
    return {"servers_links": [next_link(f"{service.url}/{path}", request.query_params.multi_items(), last_id)]}


def _sort(request: Request, caller: RequestContext) -> tuple[tuple[str, bool], ...]:
    keys = request.query_params.getlist("sort_key")
    if len(keys) > MAX_SORT_KEYS:
        raise BadRequest("sort_key", f"sort_key: there are more than {MAX_SORT_KEYS}")
    for key in SORT_KEYS_OF_ADMINISTRATORS.intersection(keys):
        if not caller.permits(policies.ALL_FILTERS, {}):
            raise Forbidden(f"Only administrators can sort servers by {key}")
    directions = request.query_params.getlist("sort_dir")
    for direction in directions:
        if direction not in {"asc", "desc"}:
            raise BadRequest("sort_dir", f"is asc or desc, not {direction}")
    padded = [*directions, *["desc"] * len(keys)]
    return tuple((key, direction == "desc") for key, direction in zip(keys, padded, strict=False))


def _statuses(asked: Any) -> tuple[str, ...]:
    found = tuple(known for text in asked for known in STATUSES_OF.get(text.upper(), ()))
    return found if found or not asked else NO_SUCH_STATUS


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part for part in (text or "").split(",") if part)


def _is_true(text: str | None) -> bool:
    """`?all_tenants` without a value means `all_tenants=1`."""
    return text is not None and (text == "" or text.lower() in TRUE_WORDS)


def _moment(field: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, OverflowError) as error:
        raise BadRequest(field, f"{field}: is no ISO 8601 time, as in 2026-11-21T10:00:00Z") from error
