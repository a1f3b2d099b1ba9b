"""The application: every service in its place on one listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from openimds import __version__
from openimds.control_api import error_handlers
from openimds.control_api.context import TokenAuthenticator
from openimds.control_api.middleware import RequestMetrics, RequestMiddleware


@dataclass(frozen=True, slots=True)
class Service:
    """A service's calls and the path they are under: `/v3`, `/compute/v2.1`."""

    prefix: str
    router: APIRouter


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All that the application is made of; the daemon puts it together."""

    authenticator: TokenAuthenticator
    routers: tuple[Service, ...]
    healthy: Callable[[], object]
    """Asks the store something small; raises StoreUnavailable."""
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    """Where the app's counters are."""


def build_app(services: Services) -> FastAPI:
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
    app.state.authenticator = services.authenticator
    metrics = RequestMetrics(services.registry)
    app.add_middleware(RequestMiddleware, metrics=metrics)
    error_handlers.install(app)
    for service in services.routers:
        app.include_router(service.router, prefix=service.prefix)
    app.include_router(_operations(metrics, services.healthy))
    return app


def _operations(metrics: RequestMetrics, healthy: Callable[[], object]) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/healthcheck")
    def healthcheck() -> Response:
        healthy()
        return JSONResponse({"status": "ok"})

    @router.get("/metrics")
    def prometheus() -> Response:
        return PlainTextResponse(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
