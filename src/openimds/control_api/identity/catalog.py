"""The service catalog, in tokens and as lists of services, endpoints and regions. It is derived from the configuration."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from openimds.control_api.context import AUTHENTICATED
from openimds.control_api.routing import ServiceRouter
from openimds.resources.errors import NotFound, NotSupported

SERVICES = (
    ("identity", "keystone", "/v3"),
    ("network", "neutron", "/network"),
    ("compute", "nova", "/compute/v2.1"),
    ("image", "glance", "/image"),
    ("instance-metadata", "openimds", "/openimds/v1"),
)
"""(type, name, path on the listener)"""

INTERFACES = ("public", "internal", "admin")

_IDS = uuid.UUID("6f1c0b9e-3a5e-4f0e-9d0c-1f7f7c0a6a10")
"""Namespace of the ids of services and endpoints. They are derived from names, so all replicas have the same ids."""


@dataclass(frozen=True, slots=True)
class Catalog:
    public_url: str
    """`http://controller:5000`, without a slash at the end."""
    region: str

    def entries(self) -> list[dict[str, Any]]:
        """The catalog in a token's body."""
        return [
            {"id": _id(kind), "type": kind, "name": name, "endpoints": [self._brief(kind, path, i) for i in INTERFACES]}
            for kind, name, path in SERVICES
        ]

    def services(self) -> list[dict[str, Any]]:
        return [
            {
                "id": _id(kind),
                "type": kind,
                "name": name,
                "enabled": True,
                "description": "",
                "links": {"self": f"{self.public_url}/v3/services/{_id(kind)}"},
            }
            for kind, name, _ in SERVICES
        ]

    def endpoints(self) -> list[dict[str, Any]]:
        return [
            {
                **self._brief(kind, path, interface),
                "service_id": _id(kind),
                "enabled": True,
                "links": {"self": f"{self.public_url}/v3/endpoints/{_id(kind + interface)}"},
            }
            for kind, _, path in SERVICES
            for interface in INTERFACES
        ]

    def regions(self) -> list[dict[str, Any]]:
        link = {"self": f"{self.public_url}/v3/regions/{self.region}"}
        return [{"id": self.region, "description": "", "parent_region_id": None, "links": link}]

    def _brief(self, kind: str, path: str, interface: str) -> dict[str, Any]:
        return {
            "id": _id(kind + interface),
            "interface": interface,
            "region": self.region,
            "region_id": self.region,
            "url": self.public_url + path,
        }


def _id(name: str) -> str:
    return uuid.uuid5(_IDS, name).hex


def router(catalog: Catalog) -> APIRouter:
    routes = ServiceRouter(dependencies=AUTHENTICATED)

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
        filters = {key: value for key, value in wanted.items() if value is not None}
        found = [item for item in all_of() if all(item.get(key) == value for key, value in filters.items())]
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
