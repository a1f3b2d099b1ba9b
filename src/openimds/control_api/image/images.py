"""`/images`: create, list, show, update and delete images, their tags, and their data as streams."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.requests import ClientDisconnect

from openimds.control_api.context import AUTHENTICATED, ProjectCaller, RequestContext
from openimds.control_api.image.protocols import ImageService, Upload
from openimds.control_api.image.schema import columns_of, image_document, image_id_of, patched
from openimds.control_api.pagination import Paging, paginate
from openimds.control_api.routing import ServiceRouter
from openimds.resources.errors import BadRequest, Forbidden, NotFound, NotSupported, PayloadTooLarge
from openimds.resources.image import Image, ImageQuery
from openimds.resources.query import MAX_SORT_KEYS, Page

PATCH_TYPES = frozenset(
    {"application/openstack-images-v2.1-json-patch", "application/openstack-images-v2.0-json-patch"}
)
EQUAL = ("id", "name", "status", "owner", "container_format", "disk_format", "checksum", "os_hash_value")
"""Attributes that a query can filter by, with one value or `in:one,two`."""

KNOWN = frozenset({*EQUAL, "visibility", "protected", "os_hidden", "tag", "size_min", "size_max", "limit", "marker",
                   "sort", "sort_key", "sort_dir", "member_status", "created_at", "updated_at"})  # fmt: skip
MAX_BODY_BYTES = 1024 * 1024


async def json_body(request: Request) -> Any:
    """FastAPI dependency: the JSON body with any Content-Type. Raises BadRequest, PayloadTooLarge."""
    body = await request.body()
    if len(body) > MAX_BODY_BYTES:
        raise PayloadTooLarge(f"The body has over {MAX_BODY_BYTES} bytes.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest("body", f"Malformed JSON in request body: {error}") from error


JsonBody = Annotated[Any, Depends(json_body)]


def router(service: ImageService) -> APIRouter:
    routes = ServiceRouter()
    _images(routes, service)
    _tags(routes, service)
    return routes


def _images(routes: APIRouter, service: ImageService) -> None:
    @routes.get("/images")
    def list_images(request: Request, caller: ProjectCaller, paging: Paging) -> dict[str, Any]:
        found = paginate(service.images.list(_query(request, caller)), paging)
        shown: dict[str, Any] = {"images": [image_document(image) for image in found.items]}
        return {**shown, "first": "/v2/images", "schema": "/v2/schemas/images", **_next(request, found)}

    @routes.post("/images", status_code=201)
    def create_image(caller: ProjectCaller, body: JsonBody) -> Response:
        if not isinstance(body, dict):
            raise BadRequest("body", "is an object with the image's attributes")
        attributes = dict(body)
        image_id = image_id_of(attributes.pop("id")) if attributes.get("id") else None
        owner = attributes.pop("owner", None) or caller.project_id
        if owner != caller.project_id and not caller.permits("add_image", {"project_id": owner}):
            raise Forbidden(f"You are not permitted to create images owned by '{owner}'.")
        columns = {"visibility": "shared", "tags": [], **columns_of(attributes), "owner": owner}
        image = service.images.create(columns, image_id, caller.requester)
        location = f"{service.public_url}/image/v2/images/{image.id}"
        return JSONResponse(image_document(image), 201, headers={"Location": location})

    @routes.get("/images/{image_id}")
    def show_image(caller: ProjectCaller, image_id: str) -> dict[str, Any]:
        return image_document(service.images.get(image_id, caller.requester))

    @routes.patch("/images/{image_id}")
    def update_image(request: Request, caller: ProjectCaller, image_id: str, body: JsonBody) -> dict[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in PATCH_TYPES:
            raise BadRequest("Content-Type", f"is one of {', '.join(sorted(PATCH_TYPES))}, not {kind}")
        changed = service.images.update(image_id, lambda image: patched(image, body), caller.requester)
        return image_document(changed)

    @routes.delete("/images/{image_id}", status_code=204)
    def delete_image(caller: ProjectCaller, image_id: str) -> None:
        service.images.delete(image_id, caller.requester)


def _tags(routes: APIRouter, service: ImageService) -> None:
    @routes.put("/images/{image_id}/tags/{tag}", status_code=204)
    def add_tag(caller: ProjectCaller, image_id: str, tag: str) -> None:
        operation = [{"op": "add", "path": "/tags/-", "value": tag}]
        service.images.update(image_id, lambda image: patched(image, operation), caller.requester)

    @routes.delete("/images/{image_id}/tags/{tag}", status_code=204)
    def delete_tag(caller: ProjectCaller, image_id: str, tag: str) -> None:
        def without(image: Image) -> dict[str, Any]:
            if tag not in image.tags:
                raise NotFound(f"Image {image_id} has no tag {tag}.")
            return {"tags": [known for known in image.tags if known != tag]}

        service.images.update(image_id, without, caller.requester)


def _query(request: Request, caller: RequestContext) -> ImageQuery:
    params = request.query_params
    visibility = params.get("visibility")
    return ImageQuery(
        project_id=caller.project_id,
        all_projects=caller.is_admin,
        equal={name: _values(params[name]) for name in EQUAL if name in params},
        visibility=visibility,
        protected=_boolean("protected", params.get("protected")),
        hidden=bool(_boolean("os_hidden", params.get("os_hidden"))),
        tags=tuple(params.getlist("tag")),
        properties={name: value for name, value in params.items() if name not in KNOWN},
        size_min=_number("size_min", params.get("size_min")),
        size_max=_number("size_max", params.get("size_max")),
        sort=_sort(params.get("sort"), params.getlist("sort_key"), params.getlist("sort_dir")),
    )


def _values(text: str) -> tuple[str, ...]:
    return tuple(text[3:].split(",")) if text.startswith("in:") else (text,)


def _sort(sort: str | None, keys: Sequence[str], directions: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """Parses `sort=name:asc,status:desc`, or pairs of `sort_key` and `sort_dir`."""
    if sort:
        parts = [part.partition(":") for part in sort.split(",")]
        pairs = [(key, direction or "desc") for key, _, direction in parts]
    else:
        padded = [*directions, *([directions[-1]] if directions else ["desc"]) * len(keys)]
        pairs = list(zip(keys, padded, strict=False))
    if len(pairs) > MAX_SORT_KEYS:
        raise BadRequest("sort_key", f"there are more than {MAX_SORT_KEYS}")
    for _, direction in pairs:
        if direction not in {"asc", "desc"}:
            raise BadRequest("sort_dir", f"is asc or desc, not {direction}")
    return tuple((key, direction == "desc") for key, direction in pairs)


def _boolean(name: str, text: str | None) -> bool | None:
    if text is None:
        return None
    if text.lower() not in {"true", "false"}:
        raise BadRequest(name, "is true or false")
    return text.lower() == "true"


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise BadRequest(name, "is a whole number")
    return int(text)


def _next(request: Request, found: Page[Image]) -> dict[str, str]:
    if not found.more or not found.items:
        return {}
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "marker"]
    return {"next": f"/v2/images?{urlencode([*kept, ('marker', found.items[-1].id)])}"}


def data_router(service: ImageService) -> APIRouter:
    routes = ServiceRouter()

    @routes.put("/images/{image_id}/file", status_code=204)
    async def upload(request: Request, caller: ProjectCaller, image_id: str) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/octet-stream":
            raise BadRequest("Content-Type", "is application/octet-stream for an image's data")
        requester = caller.requester
        begun: Upload = await to_thread.run_sync(service.images.begin_upload, image_id, requester)
        length = request.headers.get("content-length", "")
        await _receive(request, begun, int(length) if length.isdecimal() else 0)
        return Response(status_code=204)

    @routes.get("/images/{image_id}/file")
    def download(caller: ProjectCaller, image_id: str) -> Response:
        image = service.images.get(image_id, caller.requester)
        path = service.images.data(image_id, caller.requester)
        if path is None:
            return Response(status_code=204)
        headers = {"Content-MD5": image.checksum} if image.checksum else {}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    @routes.put("/images/{image_id}/stage", dependencies=AUTHENTICATED)
    @routes.post("/images/{image_id}/import", dependencies=AUTHENTICATED)
    def refuse(image_id: str) -> Any:
        raise NotSupported(f"Image import is not supported: upload the data to /v2/images/{image_id}/file.")

    return routes


async def _receive(request: Request, begun: Upload, expected_bytes: int) -> None:
    """Writes the body to the upload, which is aborted if the body is incomplete or beyond a limit."""
    try:
        await to_thread.run_sync(begun.expect, expected_bytes)
        async for chunk in request.stream():
            await to_thread.run_sync(begun.write, chunk)
        await to_thread.run_sync(begun.finish)
    except ClientDisconnect as error:
        await to_thread.run_sync(begun.abort)
        raise BadRequest("body", "the client went away before all of it was there") from error
    except BaseException:
        await to_thread.run_sync(begun.abort)
        raise
