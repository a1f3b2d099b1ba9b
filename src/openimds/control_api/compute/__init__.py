"""Compute v2.1, microversions 2.1 to 2.96: servers and what belongs to them."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from openimds.control_api.compute import admin, flavors, keypairs, server_subresources, servers
from openimds.control_api.compute.microversions import negotiate, versions_router
from openimds.control_api.compute.protocols import Compute, ComputeService


def router(service: ComputeService) -> APIRouter:
    """Everything below the listener's root: `/compute…`."""
    routes = APIRouter()
    routes.include_router(versions_router(service.public_url))
    v21 = APIRouter(prefix="/compute/v2.1", tags=["compute"], dependencies=[Depends(negotiate)])
    for part in (servers, server_subresources, server_subresources, keypairs, flavors, admin, admin):
        v21.include_router(part.router(service))
    routes.include_router(v21)
    return routes


__all__ = ["Compute", "ComputeService", "router"]
