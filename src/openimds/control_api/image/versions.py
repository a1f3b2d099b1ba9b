"""Version discovery and the two schemas that clients ask for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from openimds.resources.errors import NotFound
from openimds.resources.image import CONTAINER_FORMATS, DISK_FORMATS, VISIBILITIES

VERSIONS = ("v2.9", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0")


def router(public_url: str) -> APIRouter:
    routes = APIRouter()

    @routes.get("/image")
    @routes.get("/image/v2")
    def choices() -> Response:
        return JSONResponse({"versions": _documents(public_url)}, status_code=300)

    @routes.get("/image/versions")
    def versions() -> dict[str, Any]:
        return {"versions": _documents(public_url)}

    @routes.get("/image/v2/schemas/{name}")
    def schema(name: str) -> dict[str, Any]:
        if name == "image":
            return image_schema()
        if name == "images":
            listed = {"type": "array", "items": image_schema()}
            return {"name": "images", "properties": {"images": listed, "first": _text(), "next": _text()}}
        raise NotFound(f"The schema {name} is not served: there are image and images.")

    return routes


def image_schema() -> dict[str, Any]:
    """What an image may hold. Further properties are texts."""
    properties: dict[str, Any] = {name: _text() for name in ("id", "name", "owner", "status", "checksum")}
    properties |= {
        "visibility": {"type": "string", "enum": list(VISIBILITIES)},
        "container_format": {"type": ["null", "string"], "enum": [None, *CONTAINER_FORMATS]},
        "disk_format": {"type": ["null", "string"], "enum": [None, *DISK_FORMATS]},
        "min_disk": {"type": "integer"},
        "min_ram": {"type": "integer"},
        "protected": {"type": "boolean"},
        "os_hidden": {"type": "boolean"},
        "size": {"type": ["null", "integer"], "readOnly": True},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 255}},
    }
    return {"name": "image", "properties": properties, "additionalProperties": {"type": "string"}}


def _text() -> dict[str, Any]:
    return {"type": ["null", "string"], "maxLength": 255}


def _documents(public_url: str) -> list[dict[str, Any]]:
    link = {"rel": "self", "href": f"{public_url}/image/v2/"}
    return [
        {"id": version, "status": "CURRENT" if version == VERSIONS[0] else "SUPPORTED", "links": [link]}
        for version in VERSIONS
    ]
