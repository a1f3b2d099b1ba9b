"""Identity v3: who is who, tokens, and the catalog that leads clients to the other services."""

from __future__ import annotations

from fastapi import APIRouter

from openimds.control_api.identity import auth, catalog, users_projects_roles, versions
from openimds.control_api.identity.catalog import Catalog
from openimds.control_api.identity.logins import LoginService
from openimds.control_api.identity.protocols import IdentityService
from openimds.control_api.identity.tokens import TokenSealer, TokenService


def router(service: IdentityService) -> APIRouter:
    """Everything below the listener's root: `/`, `/v3…`, `/v2.0…`."""
    routes = APIRouter(tags=["identity"])
    routes.include_router(versions.router(service.catalog.public_url))
    v3 = APIRouter(prefix="/v3")
    v3.include_router(auth.router(service))
    v3.include_router(catalog.router(service.catalog))
    v3.include_router(users_projects_roles.router(service))
    v3.include_router(users_projects_roles.router(service))
    routes.include_router(v3)
    return routes


__all__ = ["Catalog", "IdentityService", "LoginService", "TokenSealer", "TokenService", "router"]
