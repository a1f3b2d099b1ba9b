"""An image's bytes: uploaded and downloaded as streams."""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.requests import ClientDisconnect

from openimds.control_api.context import AUTHENTICATED, ProjectCaller
from openimds.control_api.image.protocols import ImageService, Upload, requester
from openimds.resources.errors import BadRequest, NotSupported


def router(service: ImageService) -> APIRouter:
    routes = APIRouter()

    @routes.put("/images/{image_id}/file", status_code=204)
    async def upload(request: Request, caller: ProjectCaller, image_id: str) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/octet-stream":
            raise BadRequest("Content-Type", "is application/octet-stream for an image's data")
        asker = requester(caller)
        begun: Upload = await to_thread.run_sync(service.images.begin_upload, image_id, asker)
        await _receive(request, begun)
        return Response(status_code=204)

    @routes.get("/images/{image_id}/file")
    def download(caller: ProjectCaller, image_id: str) -> Response:
        image = service.images.get(image_id, requester(caller))
        path = service.images.data(image_id, requester(caller))
        if path is None:
            return Response(status_code=204)
        headers = {"Content-MD5": image.checksum} if image.checksum else {}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    @routes.put("/images/{image_id}/stage", dependencies=AUTHENTICATED)
    @routes.post("/images/{image_id}/import", dependencies=AUTHENTICATED)
    def refuse(image_id: str) -> Any:
        raise NotSupported(f"Image import is not supported: upload the data to /v2/images/{image_id}/file.")

    return routes


async def _receive(request: Request, begun: Upload) -> None:
    """All of the body into the upload, or none of it."""
    try:
        async for chunk in request.stream():
            await to_thread.run_sync(begun.write, chunk)
        await to_thread.run_sync(begun.finish)
    except ClientDisconnect as error:
        await to_thread.run_sync(begun.abort)
        raise BadRequest("body", "the client went away before all of it was there") from error
    except BaseException:
        await to_thread.run_sync(begun.abort)
        raise
