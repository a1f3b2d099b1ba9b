"""`/flavors` and their extra specs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from openimds.control_api.compute.microversions import Microversion, Version
from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.compute.schemas import ExtraSpecs, FlavorCreate, FlavorUpdate, SpecKey, SpecValue
from openimds.control_api.context import AUTHENTICATED, AuthenticatedCaller, RequestContext, authorize
from openimds.control_api.pagination import Paging, next_link, paginate
from openimds.control_api.routing import ServiceRouter
from openimds.resources.compute import Flavor
from openimds.resources.errors import BadRequest, NotFound, NotSupported

SORT_KEYS = {
    "flavorid": "id",
    "id": "id",
    "name": "name",
    "memory_mb": "ram_mib",
    "ram": "ram_mib",
    "root_gb": "disk_gib",
    "disk": "disk_gib",
    "vcpus": "vcpus",
    "swap": "swap_mib",
}


def router(service: ComputeService) -> APIRouter:
    routes = ServiceRouter()
    _collection(routes, service)
    _items(routes, service)
    _extra_specs(routes, service)
    return routes


def _collection(routes: APIRouter, service: ComputeService) -> None:
    @routes.get("/flavors")
    def list_flavors(request: Request, caller: AuthenticatedCaller, version: Version, paging: Paging) -> dict[str, Any]:
        found = paginate(_selected(service, request, caller), paging)
        shown = [_brief(item, service, version) for item in found.items]
        return {"flavors": shown, **_next(request, service, "flavors", found.items, more=found.more)}

    @routes.get("/flavors/detail")
    def list_flavors_in_detail(
        request: Request, caller: AuthenticatedCaller, version: Version, paging: Paging
    ) -> dict[str, Any]:
        found = paginate(_selected(service, request, caller), paging)
        shown = [_full(item, service, version) for item in found.items]
        return {"flavors": shown, **_next(request, service, "flavors/detail", found.items, more=found.more)}

    @routes.post("/flavors")
    def create_flavor(caller: AuthenticatedCaller, version: Version, body: FlavorCreate) -> dict[str, Any]:
        authorize(caller, "os_compute_api:os-flavor-manage:create")
        fields = body.flavor
        if "description" in fields.model_fields_set and version < (2, 55):
            raise BadRequest("flavor.description", f"is known from microversion 2.55 on, this is {version}")
        made = service.store.flavors.create(
            Flavor(
                id="" if fields.id in {None, "auto"} else str(fields.id),
                name=fields.name,
                ram_mib=fields.ram,
                vcpus=fields.vcpus,
                disk_gib=fields.disk,
                ephemeral_gib=fields.ephemeral,
                swap_mib=fields.swap,
                is_public=fields.is_public,
                description=fields.description,
            )
        )
        return {"flavor": _full(made, service, version)}


def _items(routes: APIRouter, service: ComputeService) -> None:
    flavors = service.store.flavors

    @routes.get("/flavors/{flavor_id}")
    def show_flavor(caller: AuthenticatedCaller, version: Version, flavor_id: str) -> dict[str, Any]:
        return {"flavor": _full(_visible(service, caller, flavor_id), service, version)}

    @routes.put("/flavors/{flavor_id}")
    def update_flavor(
        caller: AuthenticatedCaller, version: Version, flavor_id: str, body: FlavorUpdate
    ) -> dict[str, Any]:
        authorize(caller, "os_compute_api:os-flavor-manage:update")
        if version < (2, 55):
            raise NotFound(f"Flavors are changed from microversion 2.55 on, this is {version}.")
        return {"flavor": _full(flavors.describe(flavor_id, body.flavor.description), service, version)}

    @routes.delete("/flavors/{flavor_id}", status_code=202)
    def delete_flavor(caller: AuthenticatedCaller, flavor_id: str) -> None:
        authorize(caller, "os_compute_api:os-flavor-manage:delete")
        flavors.delete(flavor_id)

    @routes.get("/flavors/{flavor_id}/os-flavor-access", dependencies=AUTHENTICATED)
    @routes.post("/flavors/{flavor_id}/action", dependencies=AUTHENTICATED)
    def refuse(flavor_id: str) -> None:
        raise NotSupported(f"Flavor {flavor_id} is for all projects or for administrators: there is no access list.")


def _extra_specs(routes: APIRouter, service: ComputeService) -> None:
    flavors = service.store.flavors
    path = "/flavors/{flavor_id}/os-extra_specs"

    @routes.get(path)
    def list_specs(caller: AuthenticatedCaller, flavor_id: str) -> dict[str, Any]:
        return {"extra_specs": dict(_visible(service, caller, flavor_id).extra_specs)}

    @routes.post(path)
    def set_specs(caller: AuthenticatedCaller, flavor_id: str, body: ExtraSpecs) -> dict[str, Any]:
        authorize(caller, "os_compute_api:os-flavor-extra-specs:create")
        return {"extra_specs": dict(flavors.set_specs(flavor_id, body.extra_specs).extra_specs)}

    @routes.get(path + "/{key}")
    def show_spec(caller: AuthenticatedCaller, flavor_id: str, key: str) -> dict[str, Any]:
        known = _visible(service, caller, flavor_id).extra_specs
        if key not in known:
            raise NotFound(f"Flavor {flavor_id} has no extra specs with key {key}.")
        return {key: known[key]}

    @routes.put(path + "/{key}")
    def set_spec(
        caller: AuthenticatedCaller, flavor_id: str, key: str, body: dict[SpecKey, SpecValue]
    ) -> dict[str, Any]:
        authorize(caller, "os_compute_api:os-flavor-extra-specs:update")
        if set(body) != {key}:
            raise BadRequest(key, "Request body and URI mismatch: the one key in both must be the same")
        return {key: flavors.set_specs(flavor_id, body).extra_specs[key]}

    @routes.delete(path + "/{key}")
    def delete_spec(caller: AuthenticatedCaller, flavor_id: str, key: str) -> None:
        authorize(caller, "os_compute_api:os-flavor-extra-specs:delete")
        flavors.delete_spec(flavor_id, key)


def _visible(service: ComputeService, caller: RequestContext, flavor_id: str) -> Flavor:
    found = service.store.flavors.get(flavor_id)
    if not found.is_public and not caller.is_admin:
        raise NotFound(f"Flavor {flavor_id} could not be found.")
    return found


def _selected(service: ComputeService, request: Request, caller: RequestContext) -> list[Flavor]:
    params = request.query_params
    found = [item for item in service.store.flavors.list() if _shown_to(item, caller, params.get("is_public"))]
    for field, attribute in (("minRam", "ram_mib"), ("minDisk", "disk_gib")):
        if field in params:
            least = _number(field, params[field])
            found = [item for item in found if getattr(item, attribute) >= least]
    if "sort_key" in params:
        if params["sort_key"] not in SORT_KEYS:
            raise BadRequest("sort_key", f"flavors are not sorted by {params['sort_key']}")
        attribute = SORT_KEYS[params["sort_key"]]
        found.sort(key=lambda item: (getattr(item, attribute), item.id), reverse=params.get("sort_dir") == "desc")
    return found


def _shown_to(item: Flavor, caller: RequestContext, is_public: str | None) -> bool:
    """The value of `is_public`: True for public flavors. Administrators can request private ones (False) or all (None)."""
    if not caller.is_admin or is_public is None:
        return item.is_public
    return is_public.lower() == "none" or item.is_public == (is_public.lower() in {"true", "1", "t", "yes", "on"})


def _number(field: str, text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise BadRequest(field, f"Invalid {field} filter [{text}]")
    return int(text)


def _next(
    request: Request, service: ComputeService, path: str, items: Sequence[Flavor], *, more: bool
) -> dict[str, Any]:
    if not more or not items:
        return {}
    link = next_link(f"{service.url}/{path}", request.query_params.multi_items(), items[-1].id)
    return {"flavors_links": [link]}


def _brief(item: Flavor, service: ComputeService, version: Microversion) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": item.id, "name": item.name, "links": service.links("flavors", item.id)}
    return {**shown, "description": item.description} if version >= (2, 55) else shown


def _full(item: Flavor, service: ComputeService, version: Microversion) -> dict[str, Any]:
    shown = {
        **_brief(item, service, version),
        "ram": item.ram_mib,
        "vcpus": item.vcpus,
        "disk": item.disk_gib,
        "swap": item.swap_mib or ("" if version < (2, 75) else 0),
        "OS-FLV-EXT-DATA:ephemeral": item.ephemeral_gib,
        "OS-FLV-DISABLED:disabled": False,
        "os-flavor-access:is_public": item.is_public,
        "rxtx_factor": 1.0,
    }
    if version >= (2, 61):
        shown["extra_specs"] = dict(item.extra_specs)
    return shown
