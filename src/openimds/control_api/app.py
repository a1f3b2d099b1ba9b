"""The ASGI application: middleware, error handlers, and the routers of the services."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from openimds import __version__
from openimds.control_api import error_handlers
from openimds.control_api.compute import admin, flavors, keypairs, server_subresources, servers
from openimds.control_api.compute.microversions import negotiate
from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.context import TokenAuthenticator
from openimds.control_api.identity import auth, catalog, users_projects_roles
from openimds.control_api.identity.protocols import IdentityService
from openimds.control_api.image import images
from openimds.control_api.image.protocols import ImageService
from openimds.control_api.middleware import RequestMetrics, RequestMiddleware
from openimds.control_api.network import admin as network_admin
from openimds.control_api.network import resources
from openimds.control_api.network.protocols import NetworkOperations
from openimds.control_api.network.request_params import reject_if_match
from openimds.control_api.policy.enforcer import Policy, default_policy
from openimds.control_api.routing import ServiceRouter


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlApiParts:
    """The objects that the application is made of. programs/control_api/wiring.py creates them."""

    authenticator: TokenAuthenticator
    routers: tuple[APIRouter, ...]
    healthy: Callable[[], object]
    """A cheap query of the store. Raises StoreUnavailable."""
    policy: Policy = field(default_factory=default_policy)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    """The registry of the application's metrics."""


def build_app(parts: ControlApiParts) -> FastAPI:
    """The ASGI application of the control API."""
    app = FastAPI(
        title="openimds control API",
        version=__version__,
        description="The OpenStack subset that shapes an instance's metadata: identity, network, compute, image.",
        redirect_slashes=False,
        strict_content_type=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.authenticator = parts.authenticator
    app.state.policy = parts.policy
    metrics = RequestMetrics(parts.registry)
    app.add_middleware(RequestMiddleware, metrics=metrics)
    error_handlers.install(app)
    for router in parts.routers:
        app.include_router(router)
    app.include_router(_operations(metrics, parts.healthy))
    return app


def identity_router(service: IdentityService) -> APIRouter:
    """Keystone's API at `/v3`."""
    routes = ServiceRouter(prefix="/v3", tags=["identity"])
    routes.include_router(auth.router(service))
    routes.include_router(catalog.router(service.catalog))
    routes.include_router(users_projects_roles.assignments_router(service))
    routes.include_router(users_projects_roles.router(service))
    return routes


def network_router(store: NetworkOperations) -> APIRouter:
    """Neutron's API at `/network/v2.0`."""
    routes = ServiceRouter(prefix="/network/v2.0", tags=["network"])
    for part in (
        resources.tags_router(store),
        resources.router_actions(store),  # after the tags, because it matches every other PUT below a router
        network_admin.router(store, store),
    ):
        routes.include_router(part, dependencies=[Depends(reject_if_match)])
    routes.include_router(resources.router(store))
    return routes


def compute_router(service: ComputeService) -> APIRouter:
    """Nova's API at `/compute/v2.1`."""
    routes = ServiceRouter(prefix="/compute/v2.1", tags=["compute"], dependencies=[Depends(negotiate)])
    routes.include_router(servers.router(service))
    routes.include_router(server_subresources.actions_router(service))
    for part in (server_subresources, keypairs, flavors, admin):
        routes.include_router(part.router(service))
    routes.include_router(admin.unsupported_router())
    return routes


def image_router(service: ImageService) -> APIRouter:
    """Glance's API at `/image/v2`."""
    routes = ServiceRouter(prefix="/image/v2", tags=["image"])
    routes.include_router(images.router(service))
    routes.include_router(images.data_router(service))
    return routes


def _operations(metrics: RequestMetrics, healthy: Callable[[], object]) -> APIRouter:
    router = ServiceRouter(tags=["operations"])

    @router.get("/healthcheck")
    def healthcheck() -> Response:
        healthy()
        return JSONResponse({"status": "ok"})

    @router.get("/metrics")
    def prometheus() -> Response:
        return PlainTextResponse(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
