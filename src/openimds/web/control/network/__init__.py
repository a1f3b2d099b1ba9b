"""The network service: Neutron's API v2.0, as much of it as shapes what an instance learns."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from openimds.web.control.network import collections, extensions, operators, router_actions, tags, versions
from openimds.web.control.network.asking import no_if_match
from openimds.web.control.network.stores import NetworkOperations


def router(store: NetworkOperations, public_url: str) -> APIRouter:
    """Everything below `/network`: mount it there. `public_url` is the listener's, as clients reach it."""
    routes = APIRouter(tags=["network"])
    versions.add_to(routes, public_url)
    v2 = APIRouter(prefix="/v2.0")
    for part in (
        extensions.router(),
        tags.router(store),
        router_actions.router(store),  # after the tags: it answers for every other PUT below a router
        operators.router(store, store),
    ):
        v2.include_router(part, dependencies=[Depends(no_if_match)])
    v2.include_router(collections.router(store))
    routes.include_router(v2)
    return routes


__all__ = ["NetworkOperations", "router"]
