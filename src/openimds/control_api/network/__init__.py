"""The network service: Neutron's API v2.0, as much of it as shapes what an instance learns."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from openimds.control_api.network import admin, discovery, resources
from openimds.control_api.network.protocols import NetworkOperations
from openimds.control_api.network.request_params import reject_if_match


def router(store: NetworkOperations, public_url: str) -> APIRouter:
    """Everything below `/network`: mount it there. `public_url` is the listener's, as clients reach it."""
    routes = APIRouter(tags=["network"])
    discovery.add_to(routes, public_url)
    v2 = APIRouter(prefix="/v2.0")
    for part in (
        discovery.router(),
        resources.router(store),
        resources.router(store),  # after the tags: it answers for every other PUT below a router
        admin.router(store, store),
    ):
        v2.include_router(part, dependencies=[Depends(reject_if_match)])
    v2.include_router(resources.router(store))
    routes.include_router(v2)
    return routes


__all__ = ["NetworkOperations", "router"]
