"""Discovery: the version documents of the four services, and Glance's schemas. All of it is readable without a token."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from openimds.control_api.compute.microversions import NEWEST, OLDEST
from openimds.control_api.image.schema import image_schema
from openimds.control_api.network.attributes import KIND_BY_COLLECTION, plural
from openimds.control_api.routing import ServiceRouter
from openimds.resources.errors import NotFound

IMAGE_VERSIONS = ("v2.9", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0")


def router(public_url: str) -> APIRouter:
    """`public_url` is the listener's address as clients reach it (`http://127.0.0.1:5000`), without a slash at its end."""
    routes = ServiceRouter()
    _identity(routes, public_url)
    _network(routes, public_url)
    _compute(routes, public_url)
    _image(routes, public_url)
    return routes


def _identity(routes: APIRouter, public_url: str) -> None:
    @routes.get("/", tags=["identity"])
    def all_versions() -> Response:
        return JSONResponse({"versions": {"values": [v3_document(public_url)]}}, status_code=300)

    @routes.get("/v3", tags=["identity"])
    def v3() -> dict[str, Any]:
        return {"version": v3_document(public_url)}

    # Clients that are configured with the address of v2.0 find v3 in its document.
    @routes.get("/v2.0", tags=["identity"])
    def v2() -> Response:
        return JSONResponse({"versions": {"values": [v3_document(public_url)]}}, status_code=300)

    @routes.api_route("/v2.0/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    def v2_is_gone(rest: str) -> None:
        raise NotFound(f"Identity v2.0 is not served (/v2.0/{rest}): use v3, its auth_url is {public_url}/v3.")


def _network(routes: APIRouter, public_url: str) -> None:
    root = f"{public_url}/network"

    @routes.get("/network", tags=["network"])
    def versions() -> dict[str, Any]:
        link = {"rel": "self", "href": f"{root}/v2.0/"}
        return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}

    @routes.get("/network/v2.0", tags=["network"])
    def resources() -> dict[str, Any]:
        entries = [
            {
                "name": kind,
                "collection": plural(kind),
                "links": [{"rel": "self", "href": f"{root}/v2.0/{path}"}],
            }
            for path, kind in KIND_BY_COLLECTION.items()
        ]
        return {"resources": entries}


def _compute(routes: APIRouter, public_url: str) -> None:
    @routes.get("/compute", tags=["compute"])
    def all_versions() -> dict[str, Any]:
        return {"versions": [compute_document(public_url)]}

    @routes.get("/compute/v2.1", tags=["compute"])
    def one_version() -> dict[str, Any]:
        media = {"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}
        return {"version": {**compute_document(public_url), "media-types": [media]}}


def _image(routes: APIRouter, public_url: str) -> None:
    @routes.get("/image", tags=["image"])
    @routes.get("/image/v2", tags=["image"])
    def choices() -> Response:
        return JSONResponse({"versions": image_documents(public_url)}, status_code=300)

    @routes.get("/image/versions", tags=["image"])
    def versions() -> dict[str, Any]:
        return {"versions": image_documents(public_url)}

    @routes.get("/image/v2/schemas/{name}", tags=["image"])
    def schema(name: str) -> dict[str, Any]:
        if name == "image":
            return image_schema()
        if name == "images":
            text = {"type": ["null", "string"], "maxLength": 255}
            listed = {"type": "array", "items": image_schema()}
            return {"name": "images", "properties": {"images": listed, "first": text, "next": text}}
        raise NotFound(f"The schema {name} is not served: there are image and images.")


def v3_document(public_url: str) -> dict[str, Any]:
    """Keystone's version document of v3."""
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{public_url}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


def compute_document(public_url: str) -> dict[str, Any]:
    """Nova's version document of v2.1."""
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": str(NEWEST),
        "min_version": str(OLDEST),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": f"{public_url}/compute/v2.1/"}],
    }


def image_documents(public_url: str) -> list[dict[str, Any]]:
    """Glance's version documents, the newest first."""
    link = {"rel": "self", "href": f"{public_url}/image/v2/"}
    return [
        {"id": version, "status": "CURRENT" if version == IMAGE_VERSIONS[0] else "SUPPORTED", "links": [link]}
        for version in IMAGE_VERSIONS
    ]
