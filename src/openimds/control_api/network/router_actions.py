"""Routers' own calls: interfaces and extra routes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from openimds.control_api.network import body_validation, validators
from openimds.control_api.network.attributes import ROUTE
from openimds.control_api.network.protocols import RouterActions
from openimds.control_api.network.request_params import CallerDep, JsonBody
from openimds.resources.errors import BadRequest, NotSupported

INTERFACE = validators.Struct({"subnet_id": validators.uuid_or_null, "port_id": validators.uuid_or_null})


def router(store: RouterActions) -> APIRouter:
    """`/routers/{id}/add_router_interface` and its like."""
    routes = APIRouter()
    _interfaces(routes, store)
    _extra_routes(routes, store)

    @routes.put("/routers/{router_id}/{action}")
    def other(router_id: str, action: str, asker: CallerDep) -> None:
        del asker
        raise NotSupported(f"openimds does not have the action {action} of routers ({router_id}).")

    return routes


def _interfaces(routes: APIRouter, store: RouterActions) -> None:
    @routes.put("/routers/{router_id}/add_router_interface")
    def add_router_interface(router_id: str, asker: CallerDep, body: JsonBody) -> dict[str, Any]:
        return store.add_router_interface(asker, router_id, _which(body))

    @routes.put("/routers/{router_id}/remove_router_interface")
    def remove_router_interface(router_id: str, asker: CallerDep, body: JsonBody) -> dict[str, Any]:
        return store.remove_router_interface(asker, router_id, _which(body))


def _extra_routes(routes: APIRouter, store: RouterActions) -> None:
    @routes.put("/routers/{router_id}/add_extraroutes")
    def add_extraroutes(router_id: str, asker: CallerDep, body: JsonBody) -> dict[str, Any]:
        return {"router": store.change_routes(asker, router_id, {"add": _routes(body)})}

    @routes.put("/routers/{router_id}/remove_extraroutes")
    def remove_extraroutes(router_id: str, asker: CallerDep, body: JsonBody) -> dict[str, Any]:
        return {"router": store.change_routes(asker, router_id, {"remove": _routes(body)})}


def _which(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadRequest("subnet_id", "The body must be an object with subnet_id or port_id.", kind="HTTPBadRequest")
    return INTERFACE("router interface", body)


def _routes(body: Any) -> list[dict[str, str]]:
    inside = body_validation.envelope("router", body)
    return validators.ListOf(ROUTE)("routes", inside.get("routes"))
