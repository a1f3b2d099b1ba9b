"""The catalog as lists: services, endpoints, regions. Read-only: they follow from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from openimds.control_api.context import AUTHENTICATED
from openimds.control_api.identity.catalog import Catalog
from openimds.resources.errors import NotFound, NotSupported


def router(catalog: Catalog) -> APIRouter:
    routes = APIRouter(dependencies=AUTHENTICATED)

    @routes.get("/auth/catalog")
    def show_catalog() -> dict[str, Any]:
        return {"catalog": catalog.entries(), "links": {"self": f"{catalog.public_url}/v3/auth/catalog"}}

    _collection(routes, "services", "service", catalog.services)
    _collection(routes, "endpoints", "endpoint", catalog.endpoints)
    _collection(routes, "regions", "region", catalog.regions)
    return routes


def _collection(routes: APIRouter, plural: str, singular: str, all_of: Callable[[], list[dict[str, Any]]]) -> None:
    def list_all(type: str | None = None, name: str | None = None) -> dict[str, Any]:  # noqa: A002
        wanted = {"type": type, "name": name}
        asked = {key: value for key, value in wanted.items() if value is not None}
        found = [item for item in all_of() if all(item.get(key) == value for key, value in asked.items())]
        return {plural: found, "links": {"next": None, "previous": None, "self": None}}

    def show(item_id: str) -> dict[str, Any]:
        for item in all_of():
            if item["id"] == item_id:
                return {singular: item}
        raise NotFound(f"Could not find {singular}: {item_id}.")

    def refuse() -> None:
        raise NotSupported(
            f"openimds does not change {plural}: they follow from its configuration (public_url, region)."
        )

    routes.add_api_route(f"/{plural}", list_all, methods=["GET"], name=f"list {plural}")
    routes.add_api_route(f"/{plural}/{{item_id}}", show, methods=["GET"], name=f"show {singular}")
    routes.add_api_route(f"/{plural}", refuse, methods=["POST"], name=f"create {singular}")
    routes.add_api_route(f"/{plural}/{{item_id}}", refuse, methods=["PATCH", "DELETE", "PUT"], include_in_schema=False)
