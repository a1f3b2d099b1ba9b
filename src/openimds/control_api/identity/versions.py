"""Version discovery. A client of the `/v2.0` of old finds a document there that leads it to v3."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from openimds.resources.errors import NotFound

V3_UPDATED = "2020-04-07T00:00:00Z"


def router(public_url: str) -> APIRouter:
    routes = APIRouter()

    @routes.get("/")
    def all_versions() -> Response:
        return JSONResponse({"versions": {"values": [v3_document(public_url)]}}, status_code=300)

    @routes.get("/v3")
    def v3() -> dict[str, Any]:
        return {"version": v3_document(public_url)}

    @routes.get("/v2.0")
    def v2() -> Response:
        return JSONResponse({"versions": {"values": [v3_document(public_url)]}}, status_code=300)

    @routes.api_route("/v2.0/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    def v2_is_gone(rest: str) -> None:
        raise NotFound(f"Identity v2.0 is not served (/v2.0/{rest}): use v3, its auth_url is {public_url}/v3.")

    return routes


def v3_document(public_url: str) -> dict[str, Any]:
    """Keystone's description of its v3."""
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": V3_UPDATED,
        "links": [{"rel": "self", "href": f"{public_url}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }
