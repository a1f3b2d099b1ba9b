"""Image v2: enough for a server's image reference, and for a real disk image."""

from __future__ import annotations

from fastapi import APIRouter

from openimds.control_api.image import images, versions
from openimds.control_api.image.protocols import Images, ImageService


def router(service: ImageService) -> APIRouter:
    """Everything below the listener's root: `/image…`."""
    routes = APIRouter(tags=["image"])
    routes.include_router(versions.router(service.public_url))
    v2 = APIRouter(prefix="/image/v2")
    v2.include_router(images.router(service))
    v2.include_router(images.router(service))
    routes.include_router(v2)
    return routes


__all__ = ["ImageService", "Images", "router"]
